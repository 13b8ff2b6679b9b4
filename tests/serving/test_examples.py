"""The examples, run as they stand against the real server; what they print is judged by validators that share nothing with it."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from jsonschema import Draft202012Validator
from lark import Lark

from ananke_server.launch import PROJECT, TritonServer

EXAMPLES = PROJECT / "examples"
NO_COMPILER = 69
"""Exit code of scripts/run_typescript.sh."""


def run(server: TritonServer, name: str) -> str:
    """What an example prints."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--server", server.grpc_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def module_of(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    source = Path(__file__).read_text()
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert len(names) == 7
    assert names == set(re.findall(r'run\(server, "(\w+)"\)', source))


def test_the_api_handler_is_what_its_schema_admits_and_parses_as_python(server: TritonServer) -> None:
    text, _, source = run(server, "json_schema").partition("\n\n")
    Draft202012Validator(module_of("json_schema").Handler.model_json_schema()).validate(json.loads(text))
    written, _, said = source.partition("\n\nsatisfied: ")
    [function] = ast.parse(written).body
    assert isinstance(function, ast.AsyncFunctionDef)
    assert function.name == json.loads(text)["function"]
    assert said.startswith("True, guarantee: exact")


def test_the_class_definition_matches_its_pattern_and_executes(server: TritonServer) -> None:
    source, _, said = run(server, "regex_pattern").partition("\nfields: ")
    example = module_of("regex_pattern")
    assert example.CLASS.fullmatch(source), source
    assert said.startswith("name, ")
    assert said.endswith("satisfied: True, finished by: stop\n")


def test_the_turtle_program_parses_by_another_parser_and_ends_where_it_is_said_to(server: TritonServer) -> None:
    program, _, said = run(server, "grammar").partition("\n\n")
    example = module_of("grammar")
    # Lark itself spells the bounds of a repetition with ~.
    Lark(re.sub(r"\)\{(\d),(\d)\}", r")~\1..\2", example.TURTLE), parser="earley").parse(program)
    assert f"{len(example.walk(program)) - 1} strokes" in said
    assert "satisfied: True, finished by: stop" in said


def test_the_turtle_walks_as_its_language_says() -> None:
    walk = module_of("grammar").walk
    assert walk("repeat 4 [ forward 50 right 90 ]") == [(0, 0), (50, 0), (50, -50), (0, -50), (0, 0)]
    assert walk("repeat 2 [ repeat 2 [ forward 1 ] left 90 ]") == [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2)]


def test_the_composites_satisfy_each_of_their_members(server: TritonServer) -> None:
    printed = run(server, "composite")
    outputs = dict(re.findall(r"── (\w+) \(satisfied: True\)\n(.*?)\n(?=──|\Z)", printed, re.DOTALL))
    assert outputs.keys() == {"sequence", "all", "any"}, printed
    example = module_of("composite")
    line, body = outputs["sequence"].split("\n")
    assert re.fullmatch("(POST|PUT) /api/[a-z]{3,10}", line)
    Draft202012Validator(example.REQUEST.constraints[2].schema_).validate(json.loads(body))
    for member in example.NAME.constraints:
        assert re.fullmatch(member.pattern, outputs["all"])
    assert outputs["any"] == "unknown" or 100 <= int(outputs["any"]) <= 599


def test_the_pipeline_fills_its_hole_with_an_expression_of_the_parameters(server: TritonServer) -> None:
    printed = run(server, "ananke_pipeline")
    example = module_of("ananke_pipeline")
    sent = json.loads(re.findall(r"^Braid: (.*)$", printed, re.MULTILINE)[0])
    assert sent == example.braid(example.clew(example.CODE))
    assert "type" not in sent, "the flat form has none"
    code = printed.partition("Maze:\n")[2].partition("\n\n")[0]
    [function] = ast.parse(code).body
    [returned] = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    assert isinstance(returned, ast.BinOp)
    assert {node.id for node in ast.walk(returned) if isinstance(node, ast.Name)} == {"width", "height"}
    for key in ("name", "priority"):
        assert f"[metadata] at /{key}: {key!r} is metadata: kept, not enforced" in printed
    assert printed.endswith("satisfied: True, guarantee: exact\n")


def test_health_and_validation_tell_what_is_accepted_and_what_is_not(server: TritonServer) -> None:
    printed = run(server, "health_and_validation")
    assert printed.startswith("live: True, ready: True")
    assert "engine: running on cpu, SmolLM2-135M-Instruct, " in printed
    verdicts = dict(re.findall(r"^── (.*): (\w+, guarantee \w+)$", printed, re.MULTILINE))
    assert verdicts == {
        "a regex": "accepted, guarantee exact",
        "a malformed one": "refused, guarantee none",
        "unique items": "refused, guarantee none",
        "unique items, verified": "accepted, guarantee verified",
        "a contradiction": "refused, guarantee none",
    }
    assert "/schema/uniqueItems" in printed
    assert "generate raises UnsupportedConstraintError, code unsupported_constraint" in printed
    assert int(printed.rsplit(": ", 1)[1]) >= len(verdicts)


def test_health_fails_where_no_server_is() -> None:
    command = [sys.executable, str(EXAMPLES / "health_and_validation.py"), "--server", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "live: False" in done.stdout
    assert "Traceback" not in done.stderr


def test_performance_prints_figures_that_agree_with_each_other(server: TritonServer) -> None:
    printed = run(server, "performance")
    rows = re.findall(r"^(\w+, [a-z ]+?) +(\d+) +([\d.]+) +([\d.]+)$", printed, re.MULTILINE)
    assert [row[0] for row in rows] == ["unconstrained, in turn", "constrained, in turn", "constrained, at once"], printed
    requests = module_of("performance").REQUESTS
    for _, answered, seconds, rate in rows:
        assert int(answered) == requests
        assert 0 < float(seconds) * float(rate) <= requests * 16 * 1.05
    seen, told = (tuple(map(int, re.findall(r"after (\d+) ms", line))) for line in printed.splitlines()[-3:-1])
    assert told[0] < told[1]
    assert seen[0] <= seen[1]
    assert seen[0] >= told[0], "no text is seen before its token was sampled"


# Over plain HTTP.


def test_curl_gets_an_answer_a_stream_and_an_error(server: TritonServer) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    done = subprocess.run([str(EXAMPLES / "http" / "generate.sh"), server.http_url], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    whole, stream, error = done.stdout.split("── ")[1:]
    answer = json.loads(whole.split("\n")[1])
    assert re.fullmatch("[A-Z][a-z]{2,11}", json.loads(answer["text_output"])["city"])
    events = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: ")]
    assert re.fullmatch(r"v\d{1,2}[.]\d{1,2}", "".join(event["text_output"] for event in events))
    assert json.loads(events[-1]["constraint_report"])["constraint_satisfied"] is True
    assert error.split("\n")[1] == "400"
    assert "[unsupported_constraint]" in json.loads(error.split("\n")[2])["error"]


def test_typescript_gets_an_answer_a_stream_and_errors(server: TritonServer) -> None:
    if shutil.which("npm") is None:
        pytest.skip("no npm, which fetches TypeScript's compiler")
    command = [str(PROJECT / "scripts" / "run_typescript.sh"), str(EXAMPLES / "http" / "generate.mts")]
    environment = {**os.environ, "ANANKE_HTTP_URL": f"http://{server.http_url}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
    if done.returncode == NO_COMPILER:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    answer, stream, *errors = (json.loads(line) for line in done.stdout.splitlines())
    assert re.fullmatch("[A-Z][a-z]{2,11}", answer["parsed"]["city"])
    assert answer["satisfied"] is True
    assert len(stream["pieces"]) > 1
    assert "".join(stream["pieces"]) == stream["text"]
    assert re.fullmatch(r"v\d{1,2}[.]\d{1,2}", stream["text"])
    assert stream["finish_reason"] == "stop"
    assert [error["code"] for error in errors] == ["unsupported_constraint"] * 2
    assert all(error["message"].startswith("at /pattern:1:1: a lookahead") and error["message"].endswith(")") for error in errors)
