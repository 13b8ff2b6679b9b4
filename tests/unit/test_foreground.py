"""``serve.py foreground`` told to stop, with a small stand-in for tritonserver: requests under way may end first."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ananke_server.launch import PROJECT, QUIET_SECONDS
from ananke_server.ports import free_ports

# One request is under way for as long as there is a file of that name.
STAND_IN = """
import http.server, pathlib, subprocess, sys, threading

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ananke_requests_running %d\\n" % pathlib.Path(sys.argv[0]).with_name("busy").exists())

    def log_message(self, *_): pass

def server(port):
    option = next(argument for argument in sys.argv if argument.startswith(f"--{port}-port="))
    return http.server.HTTPServer(("127.0.0.1", int(option.partition("=")[2])), Handler)

for model in pathlib.Path(sys.argv[0]).with_name("models").glob("*/1/model.py"):
    child = subprocess.Popen([pathlib.Path(sys.argv[0]).with_name("triton_python_backend_stub"), model, "-f"])
    model.with_name("pid").write_text(str(child.pid))
threading.Thread(target=server("metrics").serve_forever, daemon=True).start()
server("http").serve_forever()
"""
STOPPED = 128 + signal.SIGTERM
Serve = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    file = tmp_path / "busy"
    file.touch()
    return file


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts it, with these settings, and returns once it serves."""
    started: list[subprocess.Popen[str]] = []
    binary, backends = tmp_path / "tritonserver", tmp_path / "backends"
    binary.write_text(f"#!{sys.executable}\n{STAND_IN}")
    binary.chmod(0o755)
    backends.mkdir()
    # Started with a model's file, it stays.
    (tmp_path / "triton_python_backend_stub").symlink_to(str(shutil.which("tail")))
    for model in ("one", "other"):
        (tmp_path / "models" / model / "1").mkdir(parents=True)
        (tmp_path / "models" / model / "1" / "model.py").touch()
    ports = dict(zip(("ANANKE_HTTP_PORT", "ANANKE_GRPC_PORT", "ANANKE_METRICS_PORT"), map(str, free_ports(3)), strict=True))
    places = {"TRITONSERVER": str(binary), "TRITON_BACKENDS": str(backends), "ANANKE_RUN_DIR": str(tmp_path)}

    def start(**settings: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(PROJECT / "scripts" / "serve.py"), "foreground"]
        environment = os.environ | ports | places | settings
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("serving")
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.terminate()
        process.communicate(timeout=60)


def test_requests_under_way_may_end_first(serve: Serve, busy: Path) -> None:
    process = serve(ANANKE_DRAIN_TIMEOUT="300")
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3 * QUIET_SECONDS)
    busy.unlink()
    assert process.wait(60) == STOPPED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_wait(serve: Serve, busy: Path, number: signal.Signals) -> None:
    process = serve(ANANKE_DRAIN_TIMEOUT="300")
    process.terminate()
    assert process.stdout is not None
    assert "requests under way may end first" in process.stdout.readline()
    process.send_signal(number)
    assert process.wait(60) == 128 + number


def test_it_waits_no_longer_than_it_may(serve: Serve, busy: Path) -> None:
    process = serve(ANANKE_DRAIN_TIMEOUT="1")
    process.terminate()
    assert process.wait(60) == STOPPED


def test_ctrl_c_waits_for_nobody(serve: Serve, busy: Path) -> None:
    process = serve(ANANKE_DRAIN_TIMEOUT="300")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT


def test_a_models_process_that_ends_ends_the_server(serve: Serve, busy: Path) -> None:
    """Triton goes on without it, refuses what comes to it, and forgets what it had under way."""
    process = serve()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    os.kill(int((busy.parent / "models" / "other" / "1" / "pid").read_text()), signal.SIGKILL)
    assert process.wait(60) == 1
    assert process.stderr is not None
    assert "a process of the model other has ended" in process.stderr.read()
