"""The Makefile's targets: each is told by help, and those that need no server do what they say."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from ananke_server.launch import PROJECT
from ananke_server.session import Session

ASKED_FOR = {
    *("install", "setup", "deploy", "test", "run", "serve", "stop"),
    *("examples", "health", "logs", "bench", "clean", "info", "help"),
}
MAKEFILE = (PROJECT / "Makefile").read_text()


def make(*arguments: str) -> str:
    done = subprocess.run(["make", "--no-print-directory", *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_help_names_every_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert targets >= ASKED_FOR
    assert set(re.findall(r"^  make (\S+) ", make("help"), re.MULTILINE)) == targets
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == targets


def test_info_tells_packages_machine_and_model() -> None:
    told = dict(line.split(maxsplit=1) for line in make("info").splitlines())
    assert told.keys() == {"project", "python", "packages", "triton", "machine", "gpus", "model", "serving"}
    assert "llguidance 1." in told["packages"]
    assert told["triton"].endswith("tritonserver")


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The HTTP port of what is recorded as the server that runs, where nobody answers."""
    monkeypatch.setenv("ANANKE_RUN_DIR", str(tmp_path))
    for name in ("ANANKE_HTTP_URL", "ANANKE_GRPC_URL"):
        monkeypatch.delenv(name, raising=False)
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as leader, socket.create_server(("127.0.0.1", 0)) as listener:
        session = asdict(Session.of(leader.pid, "none"))
        record = {"session": session, "http": f"127.0.0.1:{listener.getsockname()[1]}", "grpc": "127.0.0.1:2", "metrics": "127.0.0.1:3"}
        (tmp_path / "server.json").write_text(json.dumps(record))
        yield listener
        leader.kill()


def test_health_asks_the_server_that_runs(recorded: socket.socket) -> None:
    def hang_up() -> str:
        connection, _ = recorded.accept()
        with connection:
            return connection.recv(1000).decode()

    with ThreadPoolExecutor() as threads:
        asked = threads.submit(hang_up)
        done = subprocess.run(["make", "--no-print-directory", "health"], cwd=PROJECT, capture_output=True, text=True, timeout=60)
        recorded.close()
        assert asked.result(10).startswith("GET /v2/health/"), done.stdout + done.stderr
    assert done.returncode != 0


def test_an_address_that_the_environment_names_stays(recorded: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANANKE_HTTP_URL", "127.0.0.1:4")
    told = subprocess.run([sys.executable, "scripts/serve.py", "addresses"], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert told.stdout == "export ANANKE_GRPC_URL=127.0.0.1:2\n"


def test_logs_ends() -> None:
    """Without a terminal it does not follow."""
    make("logs", "LINES=1")


@pytest.mark.parametrize("arguments", ["--mode nothing", "--gpus x"])
def test_deploy_hands_its_arguments_on(arguments: str) -> None:
    done = subprocess.run(["make", "deploy", f"ARGS={arguments}"], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert arguments.split()[1] in done.stderr
