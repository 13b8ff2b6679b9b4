"""Every block of code in the documents, run as it stands against the real server, those of a document in order and in one folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import httpx
import patient_http
import pytest
from documents import DOCUMENTS, QUICKSTART, Block, blocks, printed_by
from real_server import READY_SECONDS, Provenance
from server_metrics import metrics_text

from ananke_server.launch import PROJECT, TritonServer
from ananke_server.ports import free_ports

BIN = Path(sys.executable).parent
WITH_BLOCKS = [document for document in DOCUMENTS if document != QUICKSTART and any(block.runs for block in blocks(document))]


@dataclass(frozen=True)
class Runner:
    """Runs blocks in ``folder``, with the addresses that documents give replaced by where a server really listens."""

    folder: Path
    http: str
    grpc: str
    metrics: str
    environment: dict[str, str]

    def run(self, block: Block, shown: str | None) -> None:
        if block.language == "json":
            assert block.file, f"{block}: the line before names no file"
            (self.folder / block.file).write_text(block.text)
        elif block.language == "console":
            self._console(block)
        else:
            command = [sys.executable, "-"] if block.language == "python" else ["bash", "-euo", "pipefail"]
            printed = self._execute(block, command, block.text)
            if block.language == "python" and shown is not None:  # which texts are sampled is the machine's numerics' to say
                assert len(printed.splitlines()) == len(shown.splitlines()), f"{block}: {printed}"

    def _console(self, block: Block) -> None:
        """``…`` in what is shown stands for the rest of a word or a line."""
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE):
            printed = self._execute(block, ["bash", "-uo", "pipefail"], f"{command} 2>&1 || true")
            for line, expected in zip_longest(printed.rstrip().splitlines(), shown.rstrip().splitlines()):
                assert line is not None, f"{block}: {command} does not print {expected!r}"
                assert expected is not None, f"{block}: {command} prints {line!r} too"
                pattern = re.escape(expected.rstrip()).replace("…", ".*")
                assert re.fullmatch(pattern, line.rstrip()), f"{block}: {command} prints {line!r}, not {expected!r}"

    def _execute(self, block: Block, command: list[str], text: str) -> str:
        """What a text prints; it has to succeed."""
        for old, new in (("localhost:8000", self.http), ("localhost:8001", self.grpc), ("localhost:8002", self.metrics)):
            text = text.replace(old, new)
        for old, new in ((r"(?<![^ \n])scripts/", f"{PROJECT}/scripts/"), (r"(?<![^ \n])\.venv/bin/", f"{BIN}/")):
            text = re.sub(old, new, text)
        text = re.sub(r"^make ", f"make --no-print-directory -C {PROJECT} ", text, flags=re.MULTILINE)
        environment = {**os.environ, "ANANKE_GRPC_URL": self.grpc, "ANANKE_HTTP_URL": f"http://{self.http}", **self.environment}
        done = subprocess.run(command, input=text, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=READY_SECONDS)
        assert done.returncode == 0, f"{block}: {done.stdout}{done.stderr}"
        return done.stdout

    def run_all(self, document: str) -> int:
        """Runs what can be run of a document; returns how many blocks that were."""
        found = blocks(document)
        runnable = [
            (block, printed_by(block, following))
            for block, following in zip_longest(found, found[1:])
            if block.runs
        ]
        for block, shown in runnable:
            self.run(block, shown)
        return len(runnable)


@pytest.fixture
def runner(server: TritonServer, provenance: Provenance, tmp_path: Path) -> Runner:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    keys = tmp_path / ".ananke" / "keys"  # where `make key` puts them, as the documents say
    keys.mkdir(parents=True)
    shutil.copy(provenance.public_key, keys / "signing.pub.pem")
    return Runner(tmp_path, server.http_url, server.grpc_url, server.metrics_url, {})


@pytest.mark.timeout(600)
@pytest.mark.parametrize("document", WITH_BLOCKS)
def test_the_blocks_of_a_document_run(runner: Runner, document: str) -> None:
    assert runner.run_all(document) > 0


def test_there_are_blocks_to_run() -> None:
    assert {"README.md", "docs/PROVENANCE.md"} <= set(WITH_BLOCKS)
    assert sum(block.runs for block in blocks("README.md")) >= 12


@pytest.fixture
def quick_runner(tmp_path: Path) -> Iterator[Runner]:
    """For a server that ``make serve`` starts: at free ports, recorded in a folder of its own."""
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    http, grpc, metrics = free_ports(3)
    ports = {"HTTP": http, "GRPC": grpc, "METRICS": metrics}
    environment = {f"ANANKE_{name}_PORT": str(port) for name, port in ports.items()} | {"ANANKE_RUN_DIR": str(tmp_path / "run")}
    yield Runner(tmp_path, f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", f"127.0.0.1:{metrics}", environment)
    stop = [sys.executable, str(PROJECT / "scripts" / "serve.py"), "stop"]
    subprocess.run(stop, env={**os.environ, **environment}, check=True, timeout=60)


@pytest.mark.timeout(READY_SECONDS + 200)
def test_the_quick_start_from_serve_to_stop(quick_runner: Runner) -> None:
    assert quick_runner.run_all(QUICKSTART) == 7
    with pytest.raises(httpx.ConnectError):
        patient_http.get(f"http://{quick_runner.http}/v2/health/live")
    log = (quick_runner.folder / "run" / "triton.log").read_text()
    assert "Colour of grass" not in log, "a prompt is in the log"


def test_what_make_run_shows(server: TritonServer) -> None:
    command = [sys.executable, str(PROJECT / "scripts" / "demo.py"), "--server", server.grpc_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^satisfied: (True \(\w+\))", done.stdout, re.MULTILINE) == ["True (exact)", "True (exact)", "True (verified)"]
    assert "[unsupported_constraint] at /schema/uniqueItems" in done.stdout


def test_the_metrics_that_the_readme_names_are_there(server: TritonServer) -> None:
    served = metrics_text(server)
    names = set(re.findall(r"^ananke_\w+", served, re.MULTILINE))
    readme = (PROJECT / "README.md").read_text()
    named = set(re.findall(r"\bananke_(?!client|server|triton)\w*[a-z]\b(?![.]py)", readme))
    assert named
    assert named - names == set()


@pytest.mark.parametrize("field", ["constraint", "sampling_parameters"])
def test_json_that_is_not_quoted_gets_500_without_a_code(server: TritonServer, field: str) -> None:
    answer = patient_http.post(f"http://{server.http_url}/v2/models/generate/generate", json={"text_input": "x", field: {"type": "regex"}})
    assert answer.status_code == 500
    assert "[" not in json.loads(answer.text)["error"]


def test_what_triton_offers_beside_inference_is_as_the_readme_says(server: TritonServer) -> None:
    url = f"http://{server.http_url}/v2"
    for action in ("load", "unload"):
        assert patient_http.post(f"{url}/repository/models/validate/{action}").status_code >= 400
    assert patient_http.get(f"{url}/models/generate/stats").status_code == 200
    for path in ("logging", "trace/setting", "systemsharedmemory/status"):
        assert patient_http.get(f"{url}/{path}").status_code == 403, path
