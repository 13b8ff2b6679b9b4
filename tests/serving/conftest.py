"""One real server for all serving tests: Triton, vLLM on CPU and SmolLM2-135M-Instruct."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_server import Client, Provenance, require_model, start_server
from trace_collector import Collector, collecting

from ananke_client import AnankeInferenceClient, AnankeInferenceHTTPClient
from ananke_server.launch import PROJECT, TritonServer

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if any(HERE in item.path.parents for item in items):
        require_model()


@pytest.fixture(scope="session")
def provenance(tmp_path_factory: pytest.TempPathFactory) -> Provenance:
    folder = tmp_path_factory.mktemp("provenance")
    made = Provenance(folder / "signing.pem", folder / "signing.pub.pem", folder / "log.jsonl")
    subprocess.run([sys.executable, PROJECT / "scripts" / "make_key.py", made.private_key], check=True)
    return made


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the server sends its traces."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def server(provenance: Provenance, collector: Collector) -> Iterator[TritonServer]:
    running = start_server(
        "serving",
        repositories=[HERE / "repository"],
        ANANKE_SIGNING_KEY_FILE=str(provenance.private_key),
        ANANKE_PROVENANCE_LOG=str(provenance.log),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_BSP_SCHEDULE_DELAY="200",
    )
    yield running
    running.stop()
    assert running.log_file is not None
    log = running.log_file.read_text(errors="replace")
    assert "Exit timeout expired" not in log, "Triton could not unload a model: a request was never released"
    assert "Segfault" not in log, "a model's process crashed"


@pytest.fixture(scope="session")
def grpc_client(server: TritonServer) -> Iterator[AnankeInferenceClient]:
    with AnankeInferenceClient(url=server.grpc_url, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def http_client(server: TritonServer) -> Iterator[AnankeInferenceHTTPClient]:
    with AnankeInferenceHTTPClient(url=f"http://{server.http_url}", timeout=120) as client:
        yield client


@pytest.fixture(params=["grpc", "http"])
def client(request: pytest.FixtureRequest) -> Client:
    fixture: Client = request.getfixturevalue(f"{request.param}_client")
    return fixture
