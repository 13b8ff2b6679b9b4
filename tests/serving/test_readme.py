"""The README's Python examples, run as they stand against the real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from ananke_server.launch import PROJECT, TritonServer

EXAMPLES = re.findall(r"```python\n(.*?)```\n```\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize(("source", "shown"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs_and_prints_as_many_lines_as_shown(server: TritonServer, source: str, shown: str) -> None:
    """Which texts are sampled is the machine's numerics' to say."""
    environment = {**os.environ, "ANANKE_GRPC_URL": server.grpc_url, "ANANKE_HTTP_URL": server.http_url}
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(shown.splitlines()), done.stdout
