"""One real server for all serving tests: Triton, vLLM on CPU and SmolLM2-135M-Instruct."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from trace_collector import Collector, collecting

from ananke_client import AnankeInferenceClient, AnankeInferenceHTTPClient
from ananke_server.launch import DEFAULT_MODEL, PROJECT, TritonServer, free_ports

HERE = Path(__file__).parent
READY_SECONDS = 300
Client = AnankeInferenceClient | AnankeInferenceHTTPClient


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and not DEFAULT_MODEL.is_dir():
            pytest.fail("the small model is missing: run `make setup`", pytrace=False)


def start_server(name: str, *, host: str = "127.0.0.1", **environment: str) -> TritonServer:
    """A server with the project's models and the faulty one, ready."""
    http, grpc, metrics = free_ports(3)
    server = TritonServer(
        [PROJECT / "model_repository", HERE / "repository"],
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        model=DEFAULT_MODEL,
        host=host,
        environment=environment,
        log_file=PROJECT / ".ananke" / "run" / f"test-{name}.log",
    )
    server.start()
    try:
        server.wait_until_ready(READY_SECONDS)
    except BaseException:
        server.stop()
        raise
    return server


@dataclass(frozen=True)
class Provenance:
    """Where the server has its signing key and its log, and the key's public half."""

    private_key: Path
    public_key: Path
    log: Path


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
