"""The README's Python examples and command lines, run as they stand against the real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ananke_server.launch import PROJECT, TritonServer

README = (PROJECT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```\n```\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if "bin/ananke" in line]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 3
    assert len(COMMANDS) == 4


@pytest.mark.parametrize(("source", "shown"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs_and_prints_as_many_lines_as_shown(server: TritonServer, source: str, shown: str) -> None:
    """Which texts are sampled is the machine's numerics' to say."""
    environment = {**os.environ, "ANANKE_GRPC_URL": server.grpc_url, "ANANKE_HTTP_URL": server.http_url}
    source = source.replace("localhost:8001", server.grpc_url).replace("localhost:8000", server.http_url)
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(shown.splitlines()), done.stdout


@pytest.mark.parametrize("line", COMMANDS, ids=range(len(COMMANDS)))
def test_a_command_line_runs(server: TritonServer, tmp_path: Path, line: str) -> None:
    command = line.replace(".venv/bin/ananke", str(Path(sys.executable).with_name("ananke")))
    environment = {**os.environ, "ANANKE_GRPC_URL": server.grpc_url}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout or (tmp_path / "output.txt").read_text() in ("green", "blue")
