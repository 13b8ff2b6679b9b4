"""The documents against the tree: every block is run or marked, and the commands, settings and messages that they name exist."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from constraint_support import admits
from documents import DOCUMENTS, NOT_RUN, RUN, SHOWN, blocks, indented_commands

from ananke_client.cli import app
from ananke_client.errors import ErrorCode
from ananke_server.launch import PROJECT, find_triton
from ananke_server.settings import Settings

README = (PROJECT / "README.md").read_text()
COMMANDS = {
    name: {option for parameter in command.params for option in parameter.opts}
    for name, command in typer.main.get_group(app).commands.items()
}
"""Options of each command of ``ananke``."""
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (PROJECT / "Makefile").read_text(), re.MULTILINE))


def every_text() -> Iterator[tuple[str, str]]:
    for document in DOCUMENTS:
        yield document, (PROJECT / document).read_text()


def sources() -> str:
    folders = ("client", "server", "scripts")
    files = [path for folder in folders for path in (PROJECT / folder).rglob("*") if path.suffix in (".py", ".sh")]
    return "\n".join(path.read_text() for path in files)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_is_run_or_marked(document: str) -> None:
    text = (PROJECT / document).read_text()
    found = blocks(document)
    assert len(re.findall(r"^\s*```", text, re.MULTILINE)) == 2 * len(found), "a fence that is indented, or never closed"
    for block in found:
        if block.reason_not_to_run is None:
            assert block.language in (*RUN, SHOWN), f"{block}: {block.language or 'no language'} is not run: mark it in tests/documents.py"
        if block.language == SHOWN:
            code = re.search(r"^(\$ |make |curl |import |from \w+ import )", block.text, re.MULTILINE)
            assert code is None, f"{block}: code under the name of text"


def test_every_mark_is_of_a_block() -> None:
    marked = {(document, begin) for document, begin in NOT_RUN if any(block.text.startswith(begin) for block in blocks(document))}
    assert marked == set(NOT_RUN)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_json_blocks_are_json(document: str) -> None:
    for block in blocks(document):
        if block.language == "json":
            json.loads(block.text)


@pytest.mark.timeout(600)
def test_python_blocks_pass_a_strict_type_checker(tmp_path: Path) -> None:
    every = [block for document in DOCUMENTS for block in blocks(document) if block.language == "python"]
    written = [block for block in every if "ananke_client" in block.text]
    assert len(written) >= 5
    for index, block in enumerate(written):
        (tmp_path / f"block_{index}.py").write_text(block.text)
    command = [sys.executable, "-m", "mypy", "--config-file", str(PROJECT / "pyproject.toml"), *map(str, tmp_path.glob("*.py"))]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + "\n".join(f"block_{index} is {block}" for index, block in enumerate(written))


def test_examples_say_with_which_interpreter_they_run() -> None:
    for example in (PROJECT / "examples").glob("*.py"):
        assert f"    .venv/bin/python examples/{example.name} " in (ast.get_docstring(ast.parse(example.read_text()), clean=False) or "")


def test_constraints_in_tables_are_constraints() -> None:
    examples = []
    for _, text in every_text():
        for line in re.findall(r"^\|.*\|$", text, re.MULTILINE):
            examples += re.findall(r"`(\{\"(?:type|json_schema|regex_patterns)\".*?\})`", line)
    assert len(examples) >= 16
    for example in examples:
        admits(example.replace("\\|", "|"))


def test_commands_in_outline_exist() -> None:
    commands = [command for document in DOCUMENTS for command in indented_commands(document)]
    assert len(commands) > 20
    code = sources()
    for command in commands:
        name, _, rest = command.partition(" ")
        if name == "make":
            assert rest.split()[0] in TARGETS, command
        elif name == "ananke":
            known = COMMANDS[rest.split()[0]]
            assert set(re.findall(r"(?<=[ \[])--[a-z-]+", rest)) <= known, command
        else:
            program = next(word for word in command.split() if word.startswith("scripts/"))
            assert (PROJECT / program).is_file(), command
            for option in re.findall(r"(?<= )--[a-z-]+", command.replace("ENGINE_OPTIONS", "")):
                assert f'"{option}"' in code or option in (PROJECT / program).read_text(), f"{command}: {option}"


def test_targets_of_make_exist() -> None:
    for document, text in every_text():
        for target in re.findall(r"(?:`|^|&& )make ([a-z][a-z-]*)", text, re.MULTILINE):
            assert target in TARGETS, f"{document}: make {target}"


def test_files_that_are_named_exist() -> None:
    for document, text in every_text():
        for path in re.findall(r"`((?:scripts|tests|examples|docs|requirements|benchmarks)/[\w./]+\.\w+)`", text):
            assert (PROJECT / path).is_file(), f"{document}: {path}"


def test_environment_variables_exist() -> None:
    code = sources()
    known = {f"ANANKE_{name.upper()}" for name in Settings.model_fields}
    for document, text in every_text():
        for name in set(re.findall(r"\bANANKE_[A-Z_]*[A-Z]\b", text)):
            spelt = re.sub("(HTTP|GRPC|METRICS)_PORT", "{name.upper()}_PORT", name)
            assert name.partition("__")[0] in known or name in code or spelt in code, f"{document}: {name}"


def test_every_code_has_its_row() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| `\w+Error` \|", README, re.MULTILINE)) == set(ErrorCode)


# Troubleshooting: `make serve` says what its table says. A server that is not started costs a second.


@pytest.fixture(scope="module")
def rows() -> list[str]:
    table = README.partition("`make serve` does not start:")[2].partition("It serves, and")[0]
    return re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield str(listening.getsockname()[1])


START = [sys.executable, str(PROJECT / "scripts" / "serve.py"), "start"]
PROVOKED = {
    "setup: needs …": ([str(PROJECT / "scripts" / "setup.sh")], {"PYTHON": "/nowhere"}),
    "cannot listen on …: Address already in use": (START, {"ANANKE_HTTP_PORT": "taken"}),
    "the model folder … does not exist": (START, {"ANANKE_MODEL": "/nowhere"}),
    "ANANKE_SIGNING_KEY_FILE: … cannot be read": (START, {"ANANKE_SIGNING_KEY_FILE": "/nowhere"}),
    "ANANKE_…: it should be …": (START, {"ANANKE_MAX_NUM_SEQS": "many"}),
}


@pytest.mark.parametrize("row", PROVOKED)
def test_a_start_that_fails_says_what_the_table_says(rows: list[str], taken: str, tmp_path: Path, row: str) -> None:
    assert row in rows
    command, given = PROVOKED[row]
    environment = {name: taken if value == "taken" else value for name, value in given.items()} | {"ANANKE_RUN_DIR": str(tmp_path)}
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(re.escape(row).replace("…", ".*"), done.stderr), done.stderr


def test_the_other_messages_of_the_table_are_in_the_code(rows: list[str]) -> None:
    code = sources()
    for row in set(rows) - set(PROVOKED):
        for words in re.split("…|ended with status 1", row):
            assert words.strip() in code, row


def test_a_triton_at_the_root_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONSERVER", "/nowhere")
    monkeypatch.delenv("TRITON_BACKENDS", raising=False)
    with pytest.raises(RuntimeError, match="is no program"):
        find_triton()
