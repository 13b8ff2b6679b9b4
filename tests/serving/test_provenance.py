"""Provenance of a real server: signed, verified by the command line, logged, and generated again token by token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cases import CASES
from real_server import Client, Provenance
from typer.testing import CliRunner
from waiting import wait_until

from ananke_client import AnankeInferenceClient, Constraint, ConstraintSpec, GenerationConfig, GenerationResult, cli
from ananke_client.provenance import Envelope
from ananke_client.provenance.statement import statement
from ananke_server import replay as replaying
from ananke_server.launch import DEFAULT_MODEL
from ananke_server.replay import Replayer


@dataclass(frozen=True)
class Files:
    """What a client keeps of a generation, as files."""

    folder: Path

    def keep(self, result: GenerationResult, prompt: str, constraint: Constraint | None) -> Files:
        parts = {"envelope": result.envelope, "output": result.text, "prompt": prompt}
        for name, text in (parts | ({} if constraint is None else {"constraint": constraint.to_json()})).items():
            (self.folder / name).write_bytes(text.encode())
        return self

    def arguments(self, *names: str) -> list[str]:
        return [str(self.folder / "envelope"), *(part for name in names for part in (f"--{name}", str(self.folder / name)))]

    def edit(self, **changes: Any) -> None:
        """Change the predicate, unsigned."""
        made = Envelope.parse((self.folder / "envelope").read_bytes()).statement
        edited = made["predicate"] | {"signer": None} | changes
        output = (self.folder / "output").read_text(encoding="utf-8")
        (self.folder / "envelope").write_bytes(Envelope.of(statement(output, edited)).to_bytes())


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def ananke(command: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    run = CliRunner().invoke(cli.app, [command, "--json", *arguments])
    assert run.stdout.startswith("{"), (run.stdout, run.stderr, run.exception)
    return run.exit_code, json.loads(run.stdout)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_a_server_signs_is_verified_offline(client: Client, provenance: Provenance, files: Files, case: Any) -> None:
    config = GenerationConfig(max_tokens=case.max_tokens, temperature=1.0, seed=3)
    result = client.generate(case.prompt, case.constraint, config)
    files.keep(result, case.prompt, case.constraint)
    key = ["--public-key", str(provenance.public_key)]
    code, said = ananke("verify", *files.arguments("output", "constraint", "prompt"), *key)
    if result.constraint_satisfied:
        assert (code, said["result"]) == (0, "verified"), said["checks"]
    else:
        assert [check["name"] for check in said["checks"] if check["result"] == "failed"] == ["satisfied"]
    (files.folder / "output").write_bytes(result.text.encode() + b"\n")
    code, said = ananke("verify", *files.arguments("output", "constraint", "prompt"), *key)
    assert (code, said["result"]) == (1, "failed")


def test_the_command_itself_verifies_model_and_all(client: Client, provenance: Provenance, files: Files) -> None:
    prompt, constraint = "Colour: ", ConstraintSpec.choice("red", "green", "blue")
    result = client.generate(prompt, constraint, GenerationConfig(max_tokens=8, seed=1))
    files.keep(result, prompt, constraint)
    command = [Path(sys.executable).parent / "ananke", "verify", *files.arguments("output", "constraint", "prompt")]
    command += ["--public-key", provenance.public_key, "--model", DEFAULT_MODEL]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert lines[-1] == "verified"
    assert [line.split()[0] for line in lines[:-1]] == [
        *("envelope", "signature", "statement", "output", "prompt", "constraint", "satisfied", "model", "tokenizer")
    ]
    assert all(line.split()[1] == "passed" for line in lines[:-1])


def test_a_finished_request_is_in_the_log(client: Client, provenance: Provenance) -> None:
    result = client.generate("A secret prompt", config=GenerationConfig(max_tokens=3), request_id="logged-1")
    assert result.metrics["provenance_log"] == {"line": "queued", "lost": 0, "error": None}
    wanted = f'{{"envelope":{result.envelope}}}'
    wait_until(lambda: wanted in provenance.log.read_text().splitlines())
    assert "secret" not in provenance.log.read_text()
    assert Envelope.parse(json.dumps(json.loads(wanted)["envelope"], separators=(",", ":")).encode()).signatures


def test_the_servers_log_does_not_show_the_key(client: Client, provenance: Provenance, server: Any) -> None:
    client.generate("x", config=GenerationConfig(max_tokens=1))
    secret = provenance.private_key.read_text().splitlines()[1]
    assert secret not in server.log_file.read_text(errors="replace")


@pytest.fixture(scope="module")
def replayer(server: Any) -> Iterator[Replayer]:
    """vLLM in this process, beside the server's."""
    environment = dict(os.environ)
    engine = {"runner": "v1", "dtype": "float32", "quantization": None, "max_model_len": 2048}
    record = replaying.EngineRecord.model_validate(engine | {"tensor_parallel_size": 1, "enforce_eager": True})
    with Replayer(str(DEFAULT_MODEL), record) as started:
        yield started
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def _one_engine(replayer: Replayer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Started:
        def __init__(self, *_: Any) -> None: ...

        def __enter__(self) -> Replayer:
            return replayer

        def __exit__(self, *_: Any) -> None: ...

    monkeypatch.setattr(replaying, "Replayer", Started)


REPLAYED: dict[str, tuple[str, Constraint | None, GenerationConfig]] = {
    "free text": ("The sea is", None, GenerationConfig(max_tokens=30, temperature=1.0, seed=5)),
    "a seed of the server's own": ("The sea is", None, GenerationConfig(max_tokens=12, temperature=1.0)),
    "a seed that JSON cannot hold": ("The sea is", None, GenerationConfig(max_tokens=12, temperature=1.0, seed=2**60 + 1)),
    "greedy": ("The sea is", None, GenerationConfig(max_tokens=12, temperature=0.0)),
    "schema": (CASES[0].prompt, CASES[0].constraint, GenerationConfig(max_tokens=CASES[0].max_tokens, temperature=1.0, seed=5)),
    "cut": ("Digits: ", ConstraintSpec.regex("[0-9]{100}"), GenerationConfig(max_tokens=9, seed=1)),
    "verified": (
        "Three types: ",
        ConstraintSpec.json_schema({"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 2, "maxItems": 2, "uniqueItems": True},
                                   whitespace="compact", unsupported="verify"),
        GenerationConfig(max_tokens=20, temperature=1.0, seed=4),
    ),
}  # fmt: skip


@pytest.mark.usefixtures("_one_engine")
@pytest.mark.parametrize("name", REPLAYED)
def test_in_float32_and_alone_every_token_is_generated_again(
    grpc_client: AnankeInferenceClient, files: Files, provenance: Provenance, name: str
) -> None:
    prompt, constraint, config = REPLAYED[name]
    result = grpc_client.generate(prompt, constraint, config)
    files.keep(result, prompt, constraint)
    given = ["prompt", "output"] + (["constraint"] if constraint else [])
    model = ["--model", str(DEFAULT_MODEL), "--public-key", str(provenance.public_key)]
    code, said = ananke("replay", *files.arguments(*given), *model)
    assert (code, said["result"], said["text"]) == (0, "equal", result.text), said
    assert said["tokens"] == result.usage.completion_tokens
    given.remove("output")
    assert ananke("replay", *files.arguments(*given), *model)[1]["result"] == "equal"


@pytest.mark.usefixtures("_one_engine")
def test_the_first_token_that_departs_is_found_with_the_gap(grpc_client: AnankeInferenceClient, files: Files) -> None:
    prompt, config = "The sea is", GenerationConfig(max_tokens=20, temperature=1.0, seed=5)
    result = grpc_client.generate(prompt, config=config)
    files.keep(result, prompt, None)
    recorded = result.provenance["predicate"]["sampling_parameters"]
    files.edit(sampling_parameters=recorded | {"temperature": 0})
    code, said = ananke("replay", *files.arguments("prompt", "output"), "--model", str(DEFAULT_MODEL))
    assert (code, said["result"]) == (1, "different")
    position, there, here = said["position"], said["recorded"], said["repeated"]
    assert 0 <= position < 20
    assert there["id"] != here["id"]
    assert said["gap"] == pytest.approx(here["logprob"] - there["logprob"])
    assert said["gap"] > 0, "the greedy token is the most probable one"
    code, said = ananke("replay", *files.arguments("prompt"), "--model", str(DEFAULT_MODEL))
    assert (code, said["position"]) == (1, None)


@pytest.mark.usefixtures("_one_engine")
def test_files_that_are_not_the_envelopes_are_refused_and_nothing_is_generated(
    grpc_client: AnankeInferenceClient, files: Files
) -> None:
    result = grpc_client.generate("The sea is", config=GenerationConfig(max_tokens=4))
    files.keep(result, "The lake is", None)
    code, said = ananke("replay", *files.arguments("prompt"), "--model", str(DEFAULT_MODEL))
    assert (code, said["result"]) == (1, "failed")
    failed = [check["name"] for check in said["verification"]["checks"] if check["result"] == "failed"]
    assert failed == ["prompt"]
