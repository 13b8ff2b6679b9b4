"""The command line: its reports, its exit codes, and what it says where a verdict cannot be had."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from importlib import metadata

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner
from waiting import SOON

import ananke_client
from ananke_client import AnankeInferenceHTTPClient, cli
from ananke_client.places import find, line_and_column
from ananke_client.report import Diagnostic
from ananke_client.source import Kind, Source
from ananke_server import launch
from ananke_server.constraints.limits import Limits
from ananke_server.offline import LimitError, OfflineCompiler, limited

SCHEMA = '{"type": "object",\n "properties": {"a": {"type": "integer"}},\n "required": ["a"], "additionalProperties": false}'
CONFLICT = '{"type": "json_schema",\n "schema": {\n  "properties": {\n   "é": {"type": "integer", "minimum": "x"}}}}'


@pytest.fixture(autouse=True)
def _one_token_a_byte(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("ANANKE_MODEL", raising=False)
    monkeypatch.setattr(launch, "DEFAULT_MODEL", tmp_path / "no-model")


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes, name: str = "file") -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def ananke(*arguments: str, stdin: bytes | None = None):
    return CliRunner().invoke(cli.app, list(arguments), input=stdin)


def lines_of(output: str) -> list[str]:
    return [line.rstrip() for line in output.splitlines()]


# validate


def test_an_accepted_constraint_is_told_with_its_guarantee(write) -> None:
    run = ananke("validate", write('{"type": "regex", "pattern": "[a-z]+"}'))
    assert run.exit_code == 0
    assert "accepted, guarantee exact" in run.stdout
    assert "token masks" in run.stderr


def test_a_refused_constraint_is_shown_with_its_place(write) -> None:
    run = ananke("validate", write(CONFLICT))
    assert run.exit_code == cli.REFUSED
    lines = lines_of(run.stdout)
    source = next(index for index, line in enumerate(lines) if '"é": {"type"' in line)
    assert lines[source].startswith("    4 | ")
    value = lines[source].index('"x"')
    assert lines[source + 1].index("^") == value
    assert lines[source + 1].count("^") == len('"x"')
    assert any("/schema/properties/é/minimum, line 4, column 40" in line for line in lines)


def test_json_for_machines_has_the_whole_report(write) -> None:
    run = ananke("validate", "--json", write(CONFLICT))
    assert run.exit_code == cli.REFUSED
    report = json.loads(run.stdout)
    assert {"accepted", "guarantee", "errors", "warnings", "relaxed", "rewritten", "kind", "key", "note"} == report.keys()
    assert report["accepted"] is False
    assert report["errors"][0]["pointer"] == "/schema/properties/é/minimum"
    accepted = json.loads(ananke("validate", "--json", write(SCHEMA), "--kind", "schema").stdout)
    assert (accepted["accepted"], accepted["guarantee"], accepted["kind"]) == (True, "exact", "json_schema")


@pytest.mark.parametrize(
    ("kind", "text", "accepted"),
    [
        ("schema", SCHEMA, True),
        ("schema", "true", True),
        ("schema", '{"type": "nothing"}', False),
        ("regex", "v[0-9]+\n", True),
        ("regex", "(", False),
        ("lark", 'start: "a" | "b"\n', True),
        ("lark", 'start: "a" |\nb c: "d"\n', False),
        ("gbnf", 'root ::= "a" | "b"\n', True),
        ("gbnf", 'root ::= "a\n', False),
    ],
)
def test_a_bare_text_is_taken_by_its_kind(write, kind: str, text: str, accepted: bool) -> None:
    assert ananke("validate", "-k", kind, write(text)).exit_code == (0 if accepted else cli.REFUSED)


def test_options_of_a_schema_are_handed_on(write) -> None:
    schema = write('{"type": "array", "items": {"type": "integer"}, "uniqueItems": true}')
    assert ananke("validate", "-k", "schema", schema).exit_code == cli.REFUSED
    run = ananke("validate", "-k", "schema", "--unsupported", "verify", "--json", schema)
    assert run.exit_code == 0
    report = json.loads(run.stdout)
    assert report["guarantee"] == "verified"
    assert report["relaxed"][0]["pointer"] == "/schema/uniqueItems"
    assert ananke("validate", "--whitespace", "compact", schema).exit_code == cli.USAGE
    assert ananke("validate", "-k", "schema", "--whitespace", "none", schema).exit_code == cli.REFUSED


def test_standard_input_is_read_where_the_file_is_a_dash() -> None:
    assert ananke("validate", "-", stdin=b'{"type": "choice", "choices": ["a"]}').exit_code == 0
    assert ananke("validate", "-", stdin=b"\xff").exit_code == cli.USAGE


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"ab\xff\xfe", "not UTF-8 text: byte 2 is 0xff"), (None, "No such file")],
)
def test_a_file_that_cannot_be_read_is_wrong_usage(write, tmp_path, content: bytes | None, said: str) -> None:
    run = ananke("validate", str(tmp_path / "missing") if content is None else write(content))
    assert run.exit_code == cli.USAGE
    assert said in run.stderr
    assert run.stdout == ""


@pytest.mark.parametrize("content", ["", "{", "5", '{"type": "nope"}', '{"type": "regex"}', "\0", "[" * 10_000, '{"schema":'])
@pytest.mark.parametrize("kind", ["constraint", "schema"])
def test_nonsense_is_refused_without_a_traceback(write, kind: str, content: str) -> None:
    run = ananke("validate", "-k", kind, write(content))
    assert run.exit_code == cli.REFUSED
    assert "Traceback" not in run.output


def test_what_takes_too_long_to_compile_is_refused_as_too_large() -> None:
    compiled = OfflineCompiler(None, Limits(compile_seconds=0.001)).compile('{"type": "regex", "pattern": "[a-z]{1,9}"}')
    assert compiled.grammar is None
    assert [error.code for error in compiled.report.errors] == ["constraint_too_large"]


@pytest.mark.parametrize(
    ("job", "seconds", "said"),
    [
        (lambda: time.sleep(60), 0.5, r"took more than 0\.5 s"),
        (lambda: bytearray(1 << 30), 30, "took more than 100 MiB"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), 30, "status -9"),
        (lambda: os._exit(3), 30, "status 3"),
    ],
)
def test_a_job_that_passes_its_limits_is_ended(job, seconds: float, said: str) -> None:
    begin = time.monotonic()
    with pytest.raises(LimitError, match=said):
        limited(job, seconds=seconds, mib=100)
    assert time.monotonic() - begin < SOON
    assert limited(lambda: [1], seconds=30, mib=100) == [1]


def test_a_hostile_text_cannot_steer_the_terminal(write) -> None:
    run = ananke("validate", write('{"type": "regex", "pattern": 5, "\\u001b[2J": "\x1b[31m[bold]"}'))
    assert run.exit_code == cli.REFUSED
    assert "\x1b" not in run.output


def test_a_hostile_output_cannot_steer_the_terminal(write) -> None:
    schema = write('{"not": {"const": "\x9b2J"}, "type": "string"}', "\x1b[31m")
    options = ("-k", "schema", "--unsupported", "verify")
    run = ananke("check", *options, "--constraint", schema, "--output", write('"\x9b2J"', "output"))
    assert run.exit_code == cli.REFUSED
    assert "validator: the output" in run.stdout
    assert "\x9b" not in run.output
    assert "\x1b" not in ananke("validate", *options, schema).output


def test_a_long_line_is_shown_in_part(write) -> None:
    run = ananke("validate", write('{"type": "json_schema", "schema": {"description": "' + "x" * 5000 + '", "minimum": "y"}}'))
    assert all(len(line) < 200 for line in run.stdout.splitlines() if "|" in line)
    assert '"y"' in run.stdout


def test_a_running_server_is_asked_instead(write, monkeypatch) -> None:
    report = {"accepted": False, "errors": [{"code": "invalid_constraint", "message": "no", "pointer": "/schema/required"}]}
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["inputs"][0]["data"][0])
        output = {"name": "constraint_report", "datatype": "BYTES", "shape": [1], "data": [json.dumps(report)]}
        return httpx.Response(200, json={"outputs": [output]})

    client = AnankeInferenceHTTPClient(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(cli, "client_of", lambda server, *, timeout: client)
    run = ananke("validate", "-k", "schema", write(SCHEMA), "--server", "http://somewhere")
    assert run.exit_code == cli.REFUSED
    assert "/required, line 3, column 2" in run.stdout
    assert json.loads(asked[0]) == {"type": "json_schema", "schema": json.loads(SCHEMA)}


def test_a_fault_of_the_compiler_is_no_verdict(write, monkeypatch) -> None:
    monkeypatch.setattr("ananke_server.constraints.compiled.Compiler.compile", lambda self, text: 1 / 0)
    run = ananke("validate", write(SCHEMA))
    assert run.exit_code == cli.UNAVAILABLE
    assert "ZeroDivisionError" in run.stderr


def test_a_server_out_of_reach_is_unavailable(write) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", f"127.0.0.1:{port}", f"grpc://127.0.0.1:{port}"):
        run = ananke("validate", write(SCHEMA), "--server", url)
        assert run.exit_code == cli.UNAVAILABLE
        assert "engine_unavailable" in run.stderr


def test_without_the_server_extra_one_line_says_what_to_install(write, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ananke_server.offline", None)
    run = ananke("validate", write(SCHEMA))
    assert run.exit_code == cli.UNAVAILABLE
    assert "pip install '.[server]' in the project's folder" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_model_without_a_tokenizer_is_unavailable(write, tmp_path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    run = ananke("validate", write(SCHEMA), "--model", str(tmp_path))
    assert run.exit_code == cli.UNAVAILABLE
    assert "no tokenizer" in run.stderr


# check


@pytest.mark.parametrize(
    ("output", "mask", "validator", "offset"),
    [
        ('{"a": 1}', True, True, None),
        ('{"a": "x"}', False, False, 6),
        ('{"a": 1', False, False, None),
        ('{"\\u0061": 1}', False, True, 2),
        ("", False, False, None),
        ('{"a": é}', False, False, 6),
    ],
)
def test_check_tells_both_verdicts(write, output: str, mask: bool, validator: bool, offset: int | None) -> None:
    run = ananke("check", "-k", "schema", "--constraint", write(SCHEMA, "schema"), "--output", write(output, "output"), "--json")
    verdict = json.loads(run.stdout)
    assert (verdict["mask"]["satisfied"], verdict["validator"]["satisfied"], verdict["mask"]["offset"]) == (mask, validator, offset)
    assert verdict["satisfied"] == (mask and validator)
    assert run.exit_code == (0 if mask and validator else cli.REFUSED)


def test_check_needs_the_validator_where_the_mask_is_relaxed(write) -> None:
    schema = write('{"type": "array", "items": {"type": "integer"}, "uniqueItems": true}', "schema")
    options = ("-k", "schema", "--unsupported", "verify", "--constraint", schema, "--output")
    run = ananke("check", *options, write("[1, 1]", "output"))
    assert run.exit_code == cli.REFUSED
    assert "mask:      satisfied" in run.stdout
    assert "has non-unique elements" in run.stdout
    assert ananke("check", *options, write("[1, 2]", "output")).exit_code == 0


COMPOSITE = '{"type": "composite", "mode": "%s", "constraints": [{"type": "%s", %s}, {"type": "choice", "choices": ["1"]}]}'


@pytest.mark.parametrize(
    ("constraint", "judged"),
    [
        ('{"type": "json_schema", "schema": true}', True),
        ('{"type": "regex", "pattern": "1"}', False),
        ('{"type": "grammar", "grammar": "start: \\"1\\""}', False),
        (COMPOSITE % ("any", "regex", '"pattern": "1"'), False),
        (COMPOSITE % ("any", "json_schema", '"schema": true'), True),
        (COMPOSITE % ("all", "json_schema", '"schema": true'), True),
    ],
)
def test_check_says_where_no_validator_has_judged(write, constraint: str, judged: bool) -> None:
    options = ("--constraint", write(constraint, "constraint"), "--output", write("1", "output"))
    run = ananke("check", *options)
    assert (run.exit_code, "validator: not applicable" in run.stdout) == (0, not judged)
    verdict = json.loads(ananke("check", *options, "--json").stdout)
    assert verdict["validator"] == ({"satisfied": True, "fault": None} if judged else None)
    assert verdict["satisfied"]


def test_check_hints_at_the_newline_that_editors_add(write) -> None:
    run = ananke("check", "-k", "regex", "--constraint", write("[ab]+\n", "regex"), "--output", write("ab\n", "output"))
    assert run.exit_code == cli.REFUSED
    assert "stops at byte 2" in run.stdout
    assert "ends with a newline" in run.stdout
    run = ananke("check", "-k", "regex", "--constraint", write("[ab]+", "regex"), "--output", write("c\n", "output"))
    assert "newline, which" not in run.stdout


def test_check_asks_the_mask_about_members_of_any(write) -> None:
    members = [{"type": "json_schema", "schema": {"type": "integer"}}, {"type": "regex", "pattern": "[xy]+"}]
    constraint = write(json.dumps({"type": "composite", "mode": "any", "constraints": members}), "constraint")
    for output, code in (("12", 0), ("xy", 0), ("12x", cli.REFUSED)):
        assert ananke("check", "--constraint", constraint, "--output", write(output, "output")).exit_code == code


def test_check_shows_why_a_constraint_is_refused(write) -> None:
    options = ("--constraint", write(CONFLICT, "constraint"), "--output", write("{}", "output"))
    run = ananke("check", *options)
    assert run.exit_code == cli.REFUSED
    assert "refused" in run.stdout
    verdict = json.loads(ananke("check", *options, "--json").stdout)
    assert (verdict["satisfied"], verdict["report"]["accepted"]) == (False, False)


def test_check_reads_standard_input_once(write) -> None:
    regex = write("a", "regex")
    assert ananke("check", "-k", "regex", "--constraint", regex, "--output", "-", stdin=b"a").exit_code == 0
    assert ananke("check", "--constraint", "-", "--output", "-", stdin=b"a").exit_code == cli.USAGE
    assert ananke("check", "-k", "regex", "--constraint", regex, "--output", "-", stdin=b"\xff").exit_code == cli.USAGE


# The command itself.


def test_the_command_runs_as_a_process(write) -> None:
    command = [sys.executable, "-m", "ananke_client.cli", "validate", "--json", "-"]
    run = subprocess.run(command, input='{"type": "choice", "choices": ["a"]}', capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["guarantee"] == "exact"
    run = subprocess.run([*command[:3], "validate", "/no/such/file"], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (cli.USAGE, "")
    assert "Traceback" not in run.stderr


def test_the_version_is_that_of_the_package() -> None:
    run = ananke("--version")
    assert (run.exit_code, run.stdout) == (0, f"ananke {ananke_client.__version__}\n")
    declared = tomllib.loads((launch.PROJECT / "pyproject.toml").read_text())["project"]
    assert (ananke_client.__version__, declared["version"]) == (metadata.version(declared["name"]), ananke_client.__version__)


@pytest.mark.parametrize("command", ["", *(command.callback.__name__ for command in cli.app.registered_commands)])
def test_help_has_no_markup(command: str) -> None:
    run = ananke(*command.split(), "--help")
    assert run.exit_code == 0
    assert "`" not in run.stdout


def test_the_client_imports_nothing_of_the_command_line() -> None:
    script = "import sys, ananke_client; print([name for name in ('typer', 'rich', 'click', 'ananke_server') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60).stdout.strip() == "[]"


# Places.

TEXTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.sampled_from(["a/b", "~", ""]), inner, max_size=3),
    max_leaves=10,
)


def leaves_of(value, pointer: str = ""):
    if isinstance(value, dict | list) and value:
        members = value.items() if isinstance(value, dict) else enumerate(value)
        for key, member in members:
            yield from leaves_of(member, f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}")
    elif not isinstance(value, dict | list):
        yield pointer, value


@given(TEXTS, st.sampled_from([None, 1]), st.booleans())
def test_a_pointer_is_found_where_its_value_stands(value, indent, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    for pointer, leaf in leaves_of(value):
        span = find(text, pointer)
        assert span is not None
        assert json.loads(text[span.start : span.end]) == leaf
        line, column = line_and_column(text, span.start)
        assert text.split("\n")[line - 1][column - 1 :].startswith(text[span.start : span.end].split("\n")[0])


@given(st.text(alphabet='{}[],:"\\ a1\n', max_size=30), st.text(alphabet="/a10", max_size=6))
def test_no_text_and_no_pointer_breaks_the_search(text: str, pointer: str) -> None:
    span = find(text, pointer)
    assert span is None or 0 <= span.start < span.end <= len(text)
    for line in (None, 0, 1, 99):
        diagnostic = Diagnostic(code="x", message="", pointer=pointer, line=line, column=line)
        for kind in Kind:
            Source(text, kind).place_of(diagnostic)


def test_a_missing_member_is_shown_at_its_parent() -> None:
    text = '{"schema": {"a": 1}}'
    span = find(text, "/schema/b/c")
    assert span is not None
    assert text[span.start : span.end] == '"schema"'
