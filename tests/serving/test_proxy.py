"""deploy/proxy/Caddyfile before the real server: TLS over both transports, and none of what ends a Triton that strangers reach."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from arrivals import read_as_made
from certificates import Holder, certificates
from four_clients import FOUR, AnyClient, make_client
from small_chunks import answer_to_small_chunks
from waiting import PATIENCE, SOON, wait_until

from ananke_client import ConstraintSpec, GenerationConfig, InvalidRequestError, TLSConfig
from ananke_server.launch import PROJECT, TritonServer
from ananke_server.ports import free_ports

CADDY = Path(sys.executable).with_name("caddy")
HEADER_SECONDS = 10  # as the Caddyfile says
MAX_BODY = 1 << 20


@dataclass(frozen=True)
class Proxy:
    """Caddy before the server, with a certificate of the authority ``ca_file``."""

    http_port: int
    grpc_port: int
    ca_file: str

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.http_port}"

    def client(self, kind: str) -> AnyClient:
        port = self.grpc_port if kind.startswith("grpc") else self.http_port
        return make_client(kind, port, tls=TLSConfig(ca_file=self.ca_file), timeout=120)

    def status(self, path: str) -> int:
        """What a GET of exactly this path is answered with."""
        with self.connected() as connection:
            connection.sendall(f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            return int(connection.recv(4096).split()[1])

    def connected(self) -> ssl.SSLSocket:
        """A connection for HTTP/1.1 written by hand."""
        context = ssl.create_default_context(cafile=self.ca_file)
        return context.wrap_socket(socket.create_connection(("127.0.0.1", self.http_port), PATIENCE), server_hostname="127.0.0.1")


@pytest.fixture(scope="module")
def holders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Holder]:
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def proxy(server: TritonServer, holders: dict[str, Holder], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    http_port, grpc_port = free_ports(2)
    own, folder = holders["server"], tmp_path_factory.mktemp("caddy")
    environment = os.environ | {
        "PROXY_SITE": "127.0.0.1",
        "PROXY_TLS": f"{own.certificate} {own.key}",
        "PROXY_HTTP_PORT": str(http_port),
        "PROXY_GRPC_PORT": str(grpc_port),
        "PROXY_TO_HTTP": server.http_url,
        "PROXY_TO_GRPC": server.grpc_url,
        "PROXY_MAX_BODY": "1MiB",
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    command = [CADDY, "run", "--config", PROJECT / "deploy" / "proxy" / "Caddyfile"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as caddy:
        try:
            started = Proxy(http_port, grpc_port, holders["authority"].certificate)
            wait_until(lambda: caddy.poll() is not None or listens(http_port), every=0.1)
            assert caddy.poll() is None, (folder / "log").read_text()
            yield started
        finally:
            caddy.kill()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("kind", FOUR)
def test_clients_generate_stream_and_ask_through_it(proxy: Proxy, kind: str) -> None:
    digits, config = ConstraintSpec.regex("([0-9]{2} ){10}"), GenerationConfig(max_tokens=40, seed=3)
    with proxy.client(kind) as client:
        assert client.health_check().ready
        whole = client.generate("Numbers: ", digits, config)
        assert whole.constraint_satisfied
        assert "".join(read_as_made(client.generate_stream("Numbers: ", digits, config))) == whole.text


def test_a_body_is_bounded_and_the_client_says_so(proxy: Proxy, server: TritonServer) -> None:
    with proxy.client("http") as client, pytest.raises(InvalidRequestError, match="413"):
        client.generate("x" * MAX_BODY)
    assert server.ready()


def test_many_small_chunks_reach_the_server_as_one_body(proxy: Proxy, server: TritonServer) -> None:
    with proxy.connected() as connection:
        assert answer_to_small_chunks(connection).startswith(b"HTTP/1.1 500"), "it is no JSON"
    assert server.ready()


def test_who_is_silent_within_a_head_is_let_go(proxy: Proxy) -> None:
    """Triton itself waits for ever."""
    with proxy.connected() as connection:
        connection.sendall(b"POST /v2/models/generate/generate HTTP/1.1\r\nHost: ")
        begun = time.monotonic()
        assert b"HTTP/1.1 200" not in connection.recv(4096)
        assert time.monotonic() - begun < HEADER_SECONDS + SOON


@pytest.mark.parametrize(
    "path",
    [
        "v2/systemsharedmemory/status",
        "v2/cudasharedmemory/status",
        "v2/repository/index",
        "v2/repository/models/validate/unload",
        "v2/trace/setting",
        "v2/models/validate/trace/setting",
        "v2/models/validate%2Ftrace%2Fsetting",
        "v2/models/../logging",
        "v2/logging",
        "metrics",
    ],
)
def test_management_is_not_even_asked(proxy: Proxy, path: str) -> None:
    assert proxy.status(path) == 404


def test_what_clients_and_perf_analyzer_ask_is_there(proxy: Proxy) -> None:
    model = "v2/models/generate"
    paths = ["v2", "v2/health/live", "v2/health/ready", "v2/models/stats", model]
    paths += [f"{model}/{rest}" for rest in ("ready", "config", "stats", "versions/1", "versions/1/ready", "versions/1/stats")]
    assert [(path, proxy.status(path)) for path in paths] == [(path, 200) for path in paths]
