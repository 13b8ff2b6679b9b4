"""How the process ``ananke`` ends where its streams are not as they should be, and where a fault of its own ends it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ananke_client import cli
from ananke_client.terminal import BROKEN_PIPE, REFUSED, UNAVAILABLE, USAGE

COMMAND = f"{sys.executable} -m ananke_client.cli"
CONSTRAINT = '{"type": "choice", "choices": ["a"]}'


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a line, in which ``ananke`` is the command; it exits as that does."""
    whole = f"set -o pipefail; ananke() {{ {COMMAND} \"$@\"; }}; {line}"
    given = os.environ | environment
    return subprocess.run(["bash", "-c", whole], cwd=folder, env=given, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("ananke generate <&-", USAGE, "no prompt"),
        ("ananke validate - <&-", USAGE, "standard input is closed"),
        ("ananke health >&-", USAGE, "standard output is closed"),
        ("ananke validate nothing.json 2>&-", USAGE, ""),
        ("ananke health --server http://a:x", USAGE, "malformed"),
        ("ananke health --http --server ftp://a", USAGE, "none of HTTP"),
    ],
)
def test_what_cannot_be_read_or_printed_is_wrong_usage(tmp_path: Path, line: str, code: int, said: str) -> None:
    done = shell(line, tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1 if said else 0), done.stderr
    assert said in done.stderr


@pytest.mark.parametrize("arguments", ["--help", "generate --help", "validate constraint.json", "validate constraint.json --json"])
def test_a_reader_that_has_gone_ends_it_as_sigpipe_does(tmp_path: Path, arguments: str) -> None:
    (tmp_path / "constraint.json").write_text(CONSTRAINT)
    done = shell(f"(sleep 0.3; ananke {arguments}) | exec true", tmp_path)
    assert done.returncode == BROKEN_PIPE, done.stderr
    assert not [line for line in done.stderr.splitlines() if not line.startswith("note: ")]


def test_a_file_never_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    script = "from ananke_client.command_group import open_streams; open_streams(); print(open('file', 'w').fileno())"
    for closed in ("<&-", "2>&-", "<&- 2>&-"):
        assert int(shell(f'{sys.executable} -c "{script}" {closed}', tmp_path).stdout) > 2


def test_an_ascii_terminal_gets_escapes(tmp_path: Path) -> None:
    (tmp_path / "é.json").write_text('{"type": "regex", "pattern": "é("}')
    done = shell("ananke validate é.json", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == REFUSED, done.stderr
    assert r"\xe9.json: refused" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_fault_of_its_own_is_one_line_and_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "constraint.json").write_text(CONSTRAINT)
    monkeypatch.setattr(cli, "show_report", lambda *_: {}["no\nsuch key"])
    run = CliRunner().invoke(cli.app, ["validate", str(tmp_path / "constraint.json")])
    assert run.exit_code == UNAVAILABLE
    assert run.stderr.splitlines()[-1].startswith("ananke: a fault of ananke")
    assert "KeyError" in run.stderr.splitlines()[-1]
    monkeypatch.setenv("ANANKE_TRACEBACK", "1")
    assert isinstance(CliRunner().invoke(cli.app, ["validate", str(tmp_path / "constraint.json")]).exception, KeyError)
