"""The commands that talk to a server, as processes, against the real one."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from real_server import Provenance
from waiting import PATIENCE

from ananke_client import GenerationResult
from ananke_server.launch import TritonServer

ANANKE = str(Path(sys.executable).with_name("ananke"))
PATTERN = "(19|20)[0-9]{2}"


def ananke(*arguments: str, stdin: str = "", code: int = 0) -> str:
    """What a command prints; it has to exit with ``code``."""
    done = subprocess.run([ANANKE, *arguments], input=stdin, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(params=["grpc", "http", "--http"])
def at(request: pytest.FixtureRequest, server: TritonServer) -> list[str]:
    """Options that name the server, in each spelling."""
    if request.param == "grpc":
        return ["--server", server.grpc_url]
    return ["--server", f"http://{server.http_url}"] if request.param == "http" else ["--server", server.http_url, "--http"]


def test_a_text_within_a_constraint_is_printed(at: list[str]) -> None:
    assert re.fullmatch(PATTERN, ananke("generate", "A year: ", "--regex", PATTERN, "--max-tokens", "10", *at))
    assert ananke("generate", "--choice", "green", "--choice", "blue", *at, stdin="Colour of grass: ") in ("green", "blue")


def test_json_holds_what_the_client_gives(at: list[str]) -> None:
    options = ["--schema", '{"enum": ["a", "b"]}', "--seed", "7", "--json"]
    result = json.loads(ananke("generate", "x", *options, *at))
    assert result["text"] in ('"a"', '"b"')
    assert (result["constraint_satisfied"], result["guarantee"], result["finish_reason"]) == (True, "exact", "stop")
    assert result["provenance"]["predicate"]["sampling_parameters"]["seed"] == 7
    missing = set(GenerationResult.__dataclass_fields__) - set(result)
    assert missing == {"cumulative_logprob", "output_type"}


def test_a_refusal_exits_with_1_and_a_cut_output_too(at: list[str]) -> None:
    ananke("generate", "x", "--regex", "(?=a)b", *at, code=1)
    ananke("generate", "x", "--regex", "[a-z]{50,60}", "--max-tokens", "2", *at, code=1)


def test_what_generate_saves_verify_accepts(server: TritonServer, provenance: Provenance, tmp_path: Path) -> None:
    prompt, constraint, envelope, output = (tmp_path / name for name in ("prompt", "constraint", "envelope", "output"))
    prompt.write_text("A year: ")
    constraint.write_text(json.dumps({"type": "regex", "pattern": PATTERN}) + "\n")
    text = ananke(
        *("generate", "--prompt-file", str(prompt), "--constraint", str(constraint)),
        *("--envelope", str(envelope), "--server", server.grpc_url),
    )
    output.write_text(text)
    evidence = ["--constraint", str(constraint), "--prompt", str(prompt), "--public-key", str(provenance.public_key)]
    ananke("verify", str(envelope), "--output", str(output), *evidence)
    output.write_text(text + "1")
    ananke("verify", str(envelope), "--output", str(output), *evidence, code=1)


def test_what_the_options_made_is_saved_as_it_was_sent(server: TritonServer, provenance: Provenance, tmp_path: Path) -> None:
    options = ["--chat", "--schema", ' {"enum": ["a", "b"]}\n', "--save", str(tmp_path / "saved"), "--server", server.grpc_url]
    ananke("generate", "x", *options)
    saved = tmp_path / "saved"
    files = ["--output", saved / "output.txt", "--prompt", saved / "prompt.txt", "--constraint", saved / "constraint.json"]
    shown = ananke("verify", str(saved / "envelope.json"), *map(str, files), "--public-key", str(provenance.public_key))
    assert shown.splitlines()[-1] == "verified"


def test_text_is_printed_as_it_comes_and_an_interrupt_ends_it(server: TritonServer) -> None:
    command = [ANANKE, "generate", "x", "--regex", "[0-9]{4000}", "--max-tokens", "3900", "--server", server.grpc_url]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what is in its background with SIGINT ignored
    try:
        interrupted = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    finally:
        signal.signal(signal.SIGINT, before)
    with interrupted as process:
        assert process.stdout is not None
        assert process.stdout.read(1).isdigit()
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


def test_health_is_told(at: list[str]) -> None:
    told = ananke("health", *at)
    assert "Triton" in told
    assert "running on cpu, up " in told
    assert "SmolLM2-135M-Instruct" in told
    state = json.loads(ananke("health", "--json", *at))
    assert (state["live"], state["ready"], state["models"]) == (True, True, {"generate": True, "validate": True})
    assert state["status"]["state"] == "running"


def test_bench_measures_both_loads(at: list[str]) -> None:
    figures = json.loads(ananke("bench", "--requests", "3", "--concurrency", "3", "--max-tokens", "30", "--json", *at))
    assert "this machine" in figures["note"]
    for name in ("unconstrained", "constrained"):
        load = figures[name]
        assert (load["answered"], load["failed"]) == (3, 0)
        assert 3 < load["tokens"] <= 90
        assert 0 < load["per_token_ms"][0] <= load["per_token_ms"][1]
        assert 0 < load["first_token_ms"][0] <= load["first_token_ms"][1]
        assert load["tokens_per_second"] > 0
    assert figures["constrained"]["satisfied"] == 3
