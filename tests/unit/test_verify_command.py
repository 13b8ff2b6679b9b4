"""``ananke verify`` and ``ananke replay``: their files, their exit codes, and what they say where a check was not made."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from provenance_support import CONSTRAINT, OUTPUT, PROMPT, Key, predicate, signed, unsigned
from typer.testing import CliRunner

from ananke_client import cli
from ananke_client.provenance import files_of, sha256
from ananke_client.provenance.model_files import tokenizer_digest
from ananke_server.constraints.canonical import constraint_key
from ananke_server.constraints.parse import parse

KEY = Key()
TOKEN_MASK = '{"type": "token_mask", "forbidden": [0]}'


def record_of(constraint: str) -> dict[str, Any]:
    made: dict[str, Any] = predicate()["constraint"]
    return made | {"sha256": sha256(constraint), "key": constraint_key(parse(constraint))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A generation as a client keeps it: signed, of an output that satisfies its constraint."""
    contents = {
        "envelope": signed(KEY, constraint=record_of(CONSTRAINT)).to_bytes(),
        "output": OUTPUT.encode(),
        "constraint": CONSTRAINT.encode(),
        "prompt": PROMPT.encode(),
        "key.pem": KEY.public_pem,
        "other.pem": Key().public_pem,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def ananke(command: str, folder: Path, *options: str, stdin: bytes | None = None) -> Any:
    """Runs a command; ``--name`` is followed by that file of the folder."""
    arguments = [str(folder / option) if not option.startswith("-") else option for option in options]
    return CliRunner().invoke(cli.app, [command, *arguments], input=stdin)


WHOLE = ("envelope", "--output", "output", "--constraint", "constraint", "--prompt", "prompt", "--public-key", "key.pem")


def test_all_checks_pass_with_exit_code_0(folder: Path) -> None:
    run = ananke("verify", folder, *WHOLE, "--public-key", "other.pem")
    assert run.exit_code == 0, run.output
    lines = run.stdout.splitlines()
    names = ["envelope", "signature", "statement", "output", "prompt", "constraint", "satisfied"]
    assert [line.split()[:2] for line in lines[:-1]] == [[name, "passed"] for name in names]
    assert KEY.keyid in lines[1]
    assert lines[-1] == "verified"


def test_json_has_every_check_and_the_statement(folder: Path) -> None:
    run = ananke("verify", folder, *WHOLE, "--json")
    said = json.loads(run.stdout)
    assert (said["result"], len(said["checks"])) == ("verified", 7)
    assert said["statement"]["predicate"]["request_id"] == "r-1"


@pytest.mark.parametrize(
    ("file", "content", "name", "reason"),
    [
        ("envelope", b"{}", "envelope", "has the fields"),
        ("output", b"abc8", "output", "SHA-256"),
        ("constraint", b"{}", "constraint", "SHA-256"),
        ("prompt", b"", "prompt", "SHA-256"),
        ("key.pem", b"key", "public key", "key.pem: it is no public key"),
    ],
)
def test_what_fails_is_named_with_exit_code_1(folder: Path, file: str, content: bytes, name: str, reason: str) -> None:
    (folder / file).write_bytes(content)
    run = ananke("verify", folder, *WHOLE, "--json")
    assert run.exit_code == cli.REFUSED
    said = json.loads(run.stdout)
    assert said["result"] == "failed"
    assert reason in {check["name"]: check["detail"] for check in said["checks"] if check["result"] == "failed"}[name]
    assert ananke("verify", folder, *WHOLE).stdout.splitlines()[-1] == "failed"


def test_an_output_outside_its_constraint_is_found_by_the_compiler(folder: Path) -> None:
    (folder / "envelope").write_bytes(signed(KEY, "abcd", constraint=record_of(CONSTRAINT)).to_bytes())
    (folder / "output").write_text("abcd")
    said = json.loads(ananke("verify", folder, *WHOLE, "--json").stdout)
    [failed] = [check for check in said["checks"] if check["result"] == "failed"]
    assert failed["name"] == "satisfied"
    assert "the mask stops at byte 3" in failed["detail"]


@pytest.mark.parametrize(("left_out", "name"), [("--public-key", "signature")])
def test_without_a_key_the_exit_code_is_3(folder: Path, left_out: str, name: str) -> None:
    at = WHOLE.index(left_out)
    run = ananke("verify", folder, *WHOLE[:at], *WHOLE[at + 2 :])
    assert run.exit_code == cli.UNAVAILABLE
    assert [line.split()[0] for line in run.stdout.splitlines() if "not made" in line] == [name]
    assert run.stdout.splitlines()[-1] == "incomplete"


def test_an_unsigned_envelope_is_never_verified(folder: Path) -> None:
    (folder / "envelope").write_bytes(unsigned(constraint=record_of(CONSTRAINT)).to_bytes())
    run = ananke("verify", folder, *WHOLE[:-2])
    assert (run.exit_code, "the envelope is unsigned" in run.stdout) == (cli.UNAVAILABLE, True)
    run = ananke("verify", folder, *WHOLE)
    assert (run.exit_code, "the envelope is unsigned" in run.stdout) == (cli.REFUSED, True)


def test_without_the_server_extra_the_constraint_is_not_judged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ananke_server.offline", None)
    run = ananke("verify", folder, *WHOLE)
    assert run.exit_code == cli.UNAVAILABLE
    [line] = [line for line in run.stdout.splitlines() if "not made" in line]
    assert line.split()[0] == "satisfied"
    assert "pip install '.[server]'" in line
    assert ananke("verify", folder, "envelope", "--output", "output", "--public-key", "key.pem").exit_code == 0, "nothing to judge"


def test_a_token_mask_is_judged_by_the_models_tokens_alone(folder: Path) -> None:
    (folder / "envelope").write_bytes(signed(KEY, constraint=record_of(TOKEN_MASK)).to_bytes())
    (folder / "constraint").write_text(TOKEN_MASK)
    run = ananke("verify", folder, *WHOLE)
    assert (run.exit_code, "give --model" in run.stdout) == (cli.UNAVAILABLE, True)


def test_a_model_is_held_against_the_statement(folder: Path) -> None:
    (folder / "model").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / "model" / name).write_bytes(name.encode())
    files = files_of(folder / "model")
    recorded = predicate()["model"] | {"files": files, "tokenizer": {"sha256": tokenizer_digest(files)}}
    (folder / "envelope").write_bytes(signed(KEY, model=recorded, constraint=None, constraint_satisfied=None).to_bytes())
    options = ("envelope", "--output", "output", "--public-key", "key.pem", "--model", "model")
    assert ananke("verify", folder, *options).exit_code == 0
    (folder / "model" / "chat_template.jinja").write_text("{{ messages }}")
    run = ananke("verify", folder, *options)
    assert (run.exit_code, "not among the files of the statement: chat_template.jinja" in run.stdout) == (cli.REFUSED, True)
    (folder / "model" / "chat_template.jinja").rename(folder / "chat_template.jinja")
    assert ananke("verify", folder, *options, "--tokenizer", ".").exit_code == cli.REFUSED
    (folder / "model" / "config.json").write_bytes(b"another")
    run = ananke("verify", folder, *options)
    assert (run.exit_code, "missing or different: config.json" in run.stdout) == (cli.REFUSED, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("none", "--output", "output"), "No such file"),
        (("envelope", "--output", "none"), "No such file"),
        (("envelope", "--output", "output", "--public-key", "none"), "No such file"),
        (("envelope", "--output", "output", "--model", "none"), "No such file"),
        (("-", "--output", "-"), "one of ENVELOPE and --output can be standard input, not both"),
        (("-", "--output", "-", "--prompt", "-"), "not all"),
        (("envelope", "--output", "-", "--public-key", "-"), "one of --output and --public-key"),
        (("envelope", "--output", "output", "--public-key", "-", "--public-key", "-"), "one of --public-key and --public-key"),
        (("envelope",), "--output"),
    ],
)
def test_files_that_cannot_be_read_end_with_exit_code_2(folder: Path, options: tuple[str, ...], message: str) -> None:
    run = ananke("verify", folder, *options)
    assert (run.exit_code, run.stdout) == (cli.USAGE, "")
    assert message in run.stderr


def test_the_envelope_may_come_from_standard_input(folder: Path) -> None:
    data = (folder / "envelope").read_bytes()
    assert ananke("verify", folder, "-", *WHOLE[1:], stdin=data).exit_code == 0
    assert ananke("verify", folder, "-", *WHOLE[1:], stdin=data + b"\n").exit_code == cli.REFUSED


def test_replay_asks_for_what_it_needs_before_it_starts_anything(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model").mkdir()
    files = {"config.json": {"bytes": 2, "sha256": sha256("{}")}}
    (folder / "model" / "config.json").write_text("{}")
    made = signed(KEY, model=predicate()["model"] | {"files": files}, constraint=record_of(CONSTRAINT))
    (folder / "envelope").write_bytes(made.to_bytes())
    monkeypatch.setitem(sys.modules, "ananke_server.replay", None)
    run = ananke("replay", folder, "envelope", "--model", "model", "--prompt", "prompt")
    assert (run.exit_code, "give it with --constraint" in run.stderr) == (cli.USAGE, True)
    whole = ("envelope", "--model", "model", "--prompt", "prompt", "--constraint", "constraint", "--output", "output")
    run = ananke("replay", folder, *whole)
    assert (run.exit_code, "pip install '.[server,cpu]'" in run.stderr) == (cli.UNAVAILABLE, True)
    (folder / "prompt").write_text("another")
    run = ananke("replay", folder, *whole)
    assert (run.exit_code, run.stdout.splitlines()[-1]) == (cli.REFUSED, "failed")
