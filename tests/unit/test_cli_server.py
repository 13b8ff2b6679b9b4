"""The commands that talk to a server: what they send, print and exit with, against a transport that answers as Triton does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import httpx
import pytest
from typer.testing import CliRunner

from ananke_client import AnankeInferenceHTTPClient, RetryPolicy, TLSConfig, cli, connection, grpc_client, http_client, server_options
from ananke_client.bench_command import on_this_machine
from ananke_client.health import HealthStatus
from ananke_client.load import Load, Timing
from ananke_client.provenance import Envelope
from ananke_client.terminal import REFUSED, UNAVAILABLE, USAGE
from ananke_server.launch import PROJECT

ENVELOPE = Envelope.of({"key": 1}).to_bytes().decode()


def ananke(*arguments: str, stdin: str | bytes | None = None):
    return CliRunner().invoke(cli.app, list(arguments), input=stdin)


def events_of(*texts: str, satisfied: bool | None = True, finish_reason: str = "stop") -> bytes:
    """A stream of texts as Triton sends it; the last event is the final one."""
    report = {"accepted": True, "kind": "regex", "guarantee": "exact", "constraint_satisfied": satisfied, "unsatisfied_reason": None}
    final = {
        "finish_reason": finish_reason,
        "num_input_tokens": 3,
        "num_output_tokens": len(texts),
        "constraint_report": json.dumps(report),
        "provenance": ENVELOPE,
        "metrics": "{}",
    }
    events = [{"text_output": text} for text in texts]
    return b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in [*events[:-1], events[-1] | final])


@pytest.fixture
def answer(monkeypatch):
    """Answers every request of the next commands; returns the bodies that were sent."""

    def answer(content: bytes | httpx.Response) -> list[dict]:
        sent = []

        def handler(request: httpx.Request) -> httpx.Response:
            sent.append(json.loads(request.content))
            if isinstance(content, httpx.Response):
                return httpx.Response(content.status_code, content=content.content)
            if not request.url.path.endswith("_stream"):
                events = [json.loads(line.removeprefix("data: ")) for line in content.decode().splitlines() if line]
                return httpx.Response(200, json=events[-1] | {"text_output": "".join(event["text_output"] for event in events)})
            return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=content)

        def client_of(server, *, http=False, timeout):
            return AnankeInferenceHTTPClient(transport=httpx.MockTransport(handler), timeout=timeout, retry=RetryPolicy(attempts=1))

        monkeypatch.setattr(server_options, "client_of", client_of)
        return sent

    return answer


# generate


def test_the_text_comes_out_to_the_byte_and_nothing_else_with_it(answer) -> None:
    answer(events_of("a\r", "\né", "\x1b[31m"))
    run = ananke("generate", "x")
    assert run.exit_code == 0, run.output
    assert run.stdout_bytes == "a\r\né\x1b[31m".encode()
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "stdin", "prompt"),
    [
        (["a prompt"], None, "a prompt"),
        (["-"], "é\n", "é\n"),
        ([], "from input", "from input"),
        (["--prompt-file", "FILE"], None, "of a file\n"),
        (["hello", "--chat"], None, json.dumps([{"role": "user", "content": "hello"}])),
    ],
)
def test_the_prompt_comes_from_the_argument_a_file_or_standard_input(answer, tmp_path, arguments, stdin, prompt) -> None:
    file = tmp_path / "prompt"
    file.write_text("of a file\n")
    sent = answer(events_of("a"))
    run = ananke("generate", *(str(file) if argument == "FILE" else argument for argument in arguments), stdin=stdin)
    assert run.exit_code == 0, run.output
    assert sent[0]["text_input"] == prompt


SCHEMA = '{"type": "integer"}'
LARK = 'start: "a"\n'
SPACED = '\n  ?start.2 : "::="'
ATTRIBUTED = 'start[temperature=0.5]: "a"'
GBNF = 'root ::= start\nstart ::= "start: a"\n'


@pytest.mark.parametrize(
    ("option", "text", "constraint"),
    [
        ("--schema", SCHEMA, {"type": "json_schema", "schema": {"type": "integer"}}),
        ("--grammar", LARK, {"type": "grammar", "syntax": "lark", "grammar": LARK}),
        ("--grammar", SPACED, {"type": "grammar", "syntax": "lark", "grammar": SPACED}),
        ("--grammar", ATTRIBUTED, {"type": "grammar", "syntax": "lark", "grammar": ATTRIBUTED}),
        ("--grammar", GBNF, {"type": "grammar", "syntax": "gbnf", "grammar": GBNF}),
        ("--constraint", '{"type": "regex", "pattern": "a"}', {"type": "regex", "pattern": "a"}),
    ],
)
def test_a_constraint_is_a_file_or_the_text_itself(answer, tmp_path, option, text, constraint) -> None:
    (tmp_path / "file").write_text(text)
    sent = answer(events_of("a"))
    for given, stdin in ((text, None), (str(tmp_path / "file"), None), ("-", text)):
        run = ananke("generate", "x", option, given, stdin=stdin)
        assert run.exit_code == 0, run.output
        assert json.loads(sent.pop()["constraint"]) == constraint


def test_an_empty_prompt_leaves_standard_input_to_the_constraint(answer, tmp_path) -> None:
    sent = answer(events_of("a"))
    run = ananke("generate", "", "--constraint", "-", stdin='{"type": "choice", "choices": ["a"]}')
    assert run.exit_code == 0, run.output
    assert (sent[0]["text_input"], json.loads(sent[0]["constraint"])["type"]) == ("", "choice")
    run = ananke("generate", "--prompt-file", "", stdin="x")
    assert (run.exit_code, "directory" in run.stderr) == (USAGE, True)


@pytest.mark.parametrize(
    ("server", "environment", "url", "encrypted"),
    [
        ("grpcs://far:1", {}, "far:1", True),
        ("grpc://far:1", {}, "far:1", False),
        ("far:1", {}, "far:1", False),
        (None, {"ANANKE_GRPC_URL": "grpcs://far:1"}, "far:1", True),
        (None, {"ANANKE_GRPC_URL": "far:1"}, "far:1", False),
        (None, {}, None, False),
    ],
)
def test_grpcs_is_encrypted_and_trusts_the_usual_authorities(monkeypatch, server, environment, url, encrypted) -> None:
    for name in ("GRPC_URL", "CA_FILE", "CLIENT_CERTIFICATE_FILE", "CLIENT_KEY_FILE"):
        monkeypatch.delenv(f"ANANKE_{name}", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made = []
    monkeypatch.setattr("ananke_client.grpc_client.AnankeInferenceClient", lambda **options: made.append(options))
    server_options.client_of(server, timeout=5)
    assert made == [{"url": url, "timeout": 5, "tls": TLSConfig() if encrypted else None, "api_key": None}]


def test_patterns_choices_and_options_of_a_schema_are_sent(answer) -> None:
    sent = answer(events_of("a"))
    ananke("generate", "x", "--regex", "a.b")
    ananke("generate", "x", "--choice", "a", "--choice", "b c")
    ananke("generate", "x", "--schema", SCHEMA, "--whitespace", "compact", "--unsupported", "verify")
    ananke("generate", "x")
    constraints = [json.loads(body["constraint"]) if "constraint" in body else None for body in sent]
    assert constraints == [
        {"type": "regex", "pattern": "a.b"},
        {"type": "choice", "choices": ["a", "b c"]},
        {"type": "json_schema", "schema": {"type": "integer"}, "whitespace": "compact", "unsupported": "verify"},
        None,
    ]


def test_sampling_parameters_are_sent_and_those_not_given_are_not(answer) -> None:
    sent = answer(events_of("a"))
    run = ananke("generate", "x", "--max-tokens", "5", "--temperature", "0", "--top-p", "0.5", "--top-k", "3", "--seed", "7")
    assert run.exit_code == 0, run.output
    assert json.loads(sent[0]["sampling_parameters"]) == {"max_tokens": 5, "temperature": 0.0, "top_p": 0.5, "top_k": 3, "seed": 7}
    ananke("generate", "x")
    assert json.loads(sent[1]["sampling_parameters"]) == {}


def test_json_is_the_whole_result_as_one_object(answer) -> None:
    answer(events_of("a", "b"))
    result = json.loads(ananke("generate", "x", "--regex", "ab", "--json").stdout)
    assert (result["text"], result["finish_reason"], result["constraint_satisfied"], result["guarantee"]) == ("ab", "stop", True, "exact")
    assert result["usage"] == {"prompt_tokens": 3, "completion_tokens": 2}
    assert result["report"]["kind"] == "regex"
    assert result["provenance"] == {"key": 1}
    assert result["envelope"] == ENVELOPE
    assert (result["text_input"], json.loads(result["constraint"])) == ("x", {"type": "regex", "pattern": "ab"})


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_envelope_is_saved_as_it_came(answer, tmp_path, options) -> None:
    answer(events_of("a"))
    assert ananke("generate", "x", "--envelope", str(tmp_path / "envelope"), *options).exit_code == 0
    assert (tmp_path / "envelope").read_text() == ENVELOPE
    run = ananke("generate", "x", "--envelope", str(tmp_path / "no" / "envelope"), *options)
    assert run.exit_code == USAGE
    assert "No such file" in run.stderr


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_verify_and_replay_take_is_saved_as_it_was_sent_and_came(answer, tmp_path, options) -> None:
    folder = tmp_path / "made" / "folder"
    sent = answer(events_of("a\r", "\né"))
    run = ananke("generate", "x\r\n", "--chat", "--schema", f"\n{SCHEMA}\n", "--save", str(folder), *options)
    assert run.exit_code == 0, run.output
    saved = {file.name: file.read_bytes().decode() for file in folder.iterdir()}
    named = {"prompt.txt": sent[0]["text_input"], "constraint.json": sent[0]["constraint"]}
    assert saved == named | {"envelope.json": ENVELOPE, "output.txt": "a\r\né"}
    assert ananke("generate", "x", "--save", str(folder), *options).exit_code == 0
    assert {file.name for file in folder.iterdir()} == {"envelope.json", "output.txt", "prompt.txt"}, "no constraint of another output"


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_asked(answer, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    sent = answer(events_of("a"))
    run = ananke("generate", "x", "--save", str(tmp_path / "file" / "folder"))
    assert (run.exit_code, "Not a directory" in run.stderr, sent) == (USAGE, True, [])


STEERING = "ok\x1b]0;owned\x07\x1b[2J\x9b1A"


@pytest.mark.parametrize(
    "content",
    [
        httpx.Response(400, json={"error": f"[invalid_constraint] at x: {STEERING}"}),
        events_of("a", satisfied=False, finish_reason=STEERING),
    ],
)
def test_what_the_server_says_cannot_steer_the_terminal(answer, content) -> None:
    answer(content)
    run = ananke("generate", "x", "--regex", "ab")
    assert run.exit_code == REFUSED
    assert r"ok\x1b]0;owned\x07\x1b[2J\x9b1A" in run.stderr
    assert all(character.isprintable() for character in run.stderr.rstrip("\n"))


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_output_that_does_not_satisfy_is_printed_and_exits_with_1(answer, options) -> None:
    answer(events_of("a", satisfied=False, finish_reason="length"))
    run = ananke("generate", "x", "--regex", "ab", *options)
    assert run.exit_code == REFUSED
    assert "a" in run.stdout
    assert run.stderr == "ananke: the output does not satisfy the constraint: length\n"


def test_a_cut_without_a_constraint_is_noted(answer) -> None:
    answer(events_of("a", "b", satisfied=None, finish_reason="length"))
    run = ananke("generate", "x")
    assert (run.exit_code, run.stdout, run.stderr) == (0, "ab", "note: cut after 2 tokens\n")


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (400, "[invalid_constraint] at /pattern: no\nand no", REFUSED),
        (400, "[unsupported_constraint] no", REFUSED),
        (400, "[constraint_too_large] no", REFUSED),
        (400, "[invalid_request] no", USAGE),
        (400, "[unauthenticated] no", USAGE),
        (500, "[dead_end] no", REFUSED),
        (500, "[verification_failed] no", REFUSED),
        (503, "[overloaded] no", UNAVAILABLE),
        (503, "[engine_unavailable] no", UNAVAILABLE),
        (500, "[deadline_exceeded] no", UNAVAILABLE),
        (500, "[cancelled] no", UNAVAILABLE),
        (500, "[internal] no", UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_error_is_one_line_and_its_code_the_exit_code(answer, status, error, code, options) -> None:
    answer(httpx.Response(status, json={"error": f"in ensemble 'generate', {error}"}))
    run = ananke("generate", "x", *options)
    assert run.exit_code == code, run.output
    assert run.stdout == ""
    assert run.stderr == f"ananke: {' '.join(error.split())}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x", "--prompt-file", "f"], "PROMPT or --prompt-file, not both"),
        (["x", "--regex", "a", "--choice", "b"], "one of --regex and --choice"),
        (["-", "--schema", "-"], "PROMPT and --schema"),
        (["--grammar", "-"], "PROMPT and --grammar"),
        (["x", "--regex", "a", "--whitespace", "compact"], "--whitespace goes with --schema"),
        (["x", "--schema", "/no/such/file"], "/no/such/file: No such file"),
        (["x", "--temperature", "3"], "--temperature: "),
        (["x", "--top-p", "0"], "--top-p: "),
        (["x", "--max-tokens", "0"], "--max-tokens: "),
        (["x", "--seed", "-1"], "--seed: "),
        (["x", "--timeout", "nan"], "timeout is nan"),
        (["x", "--timeout", "0"], "timeout is 0"),
    ],
)
def test_wrong_usage_is_one_line_and_exits_with_2(arguments, said) -> None:
    run = ananke("generate", *arguments, stdin="x")
    assert run.exit_code == USAGE, run.output
    assert said in run.stderr
    assert run.stdout == ""
    assert "Traceback" not in run.stderr


# health


def test_health_tells_a_server_out_of_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    address = f"127.0.0.1:{port}"
    for options in ([address], [f"http://{address}"], [address, "--http"]):
        run = ananke("health", "--server", *options)
        assert run.exit_code == UNAVAILABLE
        assert "engine_unavailable" in run.stdout
        state = json.loads(ananke("health", "--json", "--server", *options).stdout)
        assert (state["live"], state["ready"]) == (False, False)


@pytest.mark.parametrize(
    ("outcome", "code", "says"),
    [
        (events_of("a"), 0, "generates      yes"),
        (httpx.Response(400, json={"error": "[engine_unavailable] the engine has died"}), REFUSED, "the engine has died"),
        (httpx.Response(400, json={"error": "[unsupported_constraint] choices are switched off"}), REFUSED, "choices are switched off"),
    ],
)
def test_health_can_have_a_word_generated(answer, monkeypatch, outcome, code, says) -> None:
    sent = answer(outcome)
    monkeypatch.setattr(AnankeInferenceHTTPClient, "health_check", lambda self: HealthStatus(live=True, ready=True))
    run = ananke("health", "--generate")
    assert run.exit_code == code, run.output
    assert says in run.stdout
    asked = [body.get("constraint") for body in sent if "text_input" in body]
    assert json.loads(asked[0])["type"] == "choice"
    assert asked[1:] == ([None] if "switched off" in says else [])
    trial = json.loads(ananke("health", "--generate", "--json").stdout)["trial"]
    assert trial["generates"] is (code == 0)


def test_what_is_not_ready_is_not_asked_to_generate(answer, monkeypatch) -> None:
    sent = answer(events_of("a"))
    monkeypatch.setattr(AnankeInferenceHTTPClient, "health_check", lambda self: HealthStatus(live=True, ready=False))
    assert ananke("health", "--generate").exit_code == REFUSED
    assert sent == []


# bench


def test_bench_sends_the_requests_that_it_was_told_to(answer) -> None:
    sent = answer(events_of("a", "b", "c"))
    run = ananke("bench", "x", "--requests", "5", "--concurrency", "2", "--seed", "3", "--choice", "abc", "--json")
    assert run.exit_code == 0, run.output
    figures = json.loads(run.stdout)
    assert len(sent) == 2 * (1 + 5)
    constrained = [body for body in sent if "constraint" in body]
    assert len(constrained) == 6
    assert sorted(json.loads(body["sampling_parameters"])["seed"] for body in constrained) == [3, 3, 4, 5, 6, 7]
    for name in ("unconstrained", "constrained"):
        assert (figures[name]["answered"], figures[name]["failed"], figures[name]["tokens"]) == (5, 0, 15)
    assert figures["constrained"]["satisfied"] == 5
    assert "no benchmark" in figures["note"]


@pytest.mark.parametrize("options", [("--requests", "0"), ("--requests", "10001"), ("--concurrency", "0"), ("--concurrency", "257")])
def test_bench_is_bounded(options) -> None:
    assert ananke("bench", *options).exit_code == USAGE


def test_figures_of_a_load() -> None:
    load = Load([Timing(first=0.1 * n, total=0.1 * n + 1, tokens=11, satisfied=True) for n in (1, 2, 3)], [], 2.0)
    assert load.tokens_per_second == 16.5
    assert load.first_token() == pytest.approx((0.2, 0.28))
    assert load.per_token() == pytest.approx((0.1, 0.1))
    assert Load([Timing(first=1, total=1, tokens=1, satisfied=None)], [], 1).per_token() is None


@pytest.mark.parametrize(
    ("server", "same"),
    [(None, True), ("localhost:8001", True), ("http://127.0.0.2:1", True), ("[::1]:8001", True), ("gpu.example:8001", False)],
)
def test_this_machine_is_known(monkeypatch, server, same) -> None:
    monkeypatch.delenv("ANANKE_GRPC_URL", raising=False)
    assert on_this_machine(server, http=False) is same
    monkeypatch.setenv("ANANKE_GRPC_URL", "gpu.example:8001")
    assert on_this_machine(None, http=False) is False


# Completion.


@pytest.mark.parametrize("words", ["ananke gen", "ananke generate --max"])
def test_a_shell_completes_commands_and_options(words) -> None:
    environment = {"_ANANKE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-m", "ananke_client.cli"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["generate" if words.endswith("gen") else "--max-tokens"], done.stderr


def test_the_readme_documents_every_command_and_its_exit_codes() -> None:
    readme = (PROJECT / "README.md").read_text()
    for command in cli.app.registered_commands:
        name = command.name or command.callback.__name__
        assert f"    ananke {name}" in readme
        assert f"\n| `{name}` | " in readme


# the key


def test_the_key_of_a_file_is_read_each_time_and_the_variable_is_stronger(tmp_path, monkeypatch) -> None:
    file = tmp_path / "probe"
    monkeypatch.delenv("ANANKE_API_KEY", raising=False)
    monkeypatch.setenv("ANANKE_API_KEY_PATH", str(file))
    for key in ("ananke_one", "ananke_two"):
        file.write_text(f"{key}\n")
        assert server_options.api_key_of_environment() == key
    monkeypatch.setenv("ANANKE_API_KEY", "ananke_three")
    assert server_options.api_key_of_environment() is None


@pytest.mark.parametrize("http", [[], ["--http"]])
def test_the_key_of_a_file_is_sent(tmp_path, monkeypatch, http) -> None:
    file = tmp_path / "probe"
    file.write_text("ananke_one\n")
    monkeypatch.delenv("ANANKE_API_KEY", raising=False)
    monkeypatch.setenv("ANANKE_API_KEY_PATH", str(file))
    sent = []

    def headers_of(*given):
        sent.append(given)
        return connection.headers_of(*given)

    monkeypatch.setattr(http_client if http else grpc_client, "headers_of", headers_of)
    ananke("health", *http, "--server", "127.0.0.1:9")
    assert sent == [("ananke_one", None)]
    file.unlink()
    run = ananke("health", *http, "--server", "127.0.0.1:9")
    assert run.exit_code == USAGE
    assert f"ANANKE_API_KEY_PATH: {file} cannot be read: No such file" in run.stderr
