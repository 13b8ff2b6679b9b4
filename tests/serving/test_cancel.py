"""Cancelled, closed, timed-out and left streams: the engine soon runs nothing any more; scripts/cancel_times.py says how soon."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from four_clients import FOUR, AnyClient, make_client
from running_requests import LONG, LONG_CONFIG, comes_to, running
from waiting import PATIENCE, SOON

from ananke_client import AnankeInferenceClient, CancelledError, ConstraintSpec, DeadlineExceededError, GenerationConfig
from ananke_server.launch import TritonServer

TRIES = 5


@pytest.fixture(scope="module", params=FOUR)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def port(kind: str, server: TritonServer) -> int:
    return server.grpc_port if kind.startswith("grpc") else server.http_port


@pytest.fixture(autouse=True)
def long_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is a cancel that ends a request soon, and no lease."""
    for module in ("request", "lease"):
        monkeypatch.setattr(f"ananke_client.{module}.LEASE", 3 * SOON)


@pytest.fixture
def client(kind: str, port: int) -> Iterator[AnyClient]:
    with make_client(kind, port, timeout=60) as client:
        yield client


def test_a_closed_stream(client: AnyClient, server: TritonServer) -> None:
    for _ in range(TRIES):
        stream = client.generate_stream("x", LONG, LONG_CONFIG)
        next(stream)
        assert comes_to(server, 1)
        stream.close()
        assert comes_to(server, 0, SOON)


def test_a_stream_closed_before_its_first_token(client: AnyClient, server: TritonServer) -> None:
    """The cancel may overtake its request, in validate: then it waits for it."""
    for _ in range(TRIES):
        stream = client.generate_stream("x", LONG, LONG_CONFIG)
        stream.close()
        assert comes_to(server, 0, SOON)
    time.sleep(0.5)
    assert running(server) == 0


def test_a_closed_client(kind: str, port: int, server: TritonServer) -> None:
    for _ in range(TRIES):
        with make_client(kind, port) as client:
            streams = [client.generate_stream("x", LONG, LONG_CONFIG) for _ in range(4)]
            for stream in streams:
                next(stream)
            assert comes_to(server, 4)
            client.close()
            assert comes_to(server, 0, SOON)


def test_a_passed_deadline(client: AnyClient, server: TritonServer) -> None:
    for _ in range(TRIES):
        with pytest.raises(DeadlineExceededError):
            list(client.generate_stream("x", LONG, LONG_CONFIG, timeout=0.5))
        assert comes_to(server, 0, SOON)


def test_cancel_by_request_id(client: AnyClient, server: TritonServer) -> None:
    """The same id time and again: no cancel reaches the request after it."""
    assert client.cancel("no such request") is False
    for _ in range(TRIES):
        with ThreadPoolExecutor(1) as pool:
            whole = pool.submit(client.generate, "x", LONG, LONG_CONFIG, request_id="the-same")
            assert comes_to(server, 1)
            assert client.cancel("the-same") is True
            assert comes_to(server, 0, SOON)
            with pytest.raises(CancelledError, match="the caller cancelled"):
                whole.result(PATIENCE)
        assert client.cancel("the-same") is False


def test_many_cancelled_streams_leave_the_others_alone(server: TritonServer) -> None:
    digits = ConstraintSpec.regex("([0-9]{2} ){10}")

    def whole(number: int) -> str:
        return client.generate("Numbers: ", digits, GenerationConfig(max_tokens=40, seed=3)).text

    def left(number: int) -> str:
        with client.generate_stream("x", LONG, LONG_CONFIG) as stream:
            return next(stream)

    with AnankeInferenceClient(url=server.grpc_url, timeout=120) as client, ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(lambda number: (whole if number % 2 else left)(number), range(32)))
    assert len(set(texts[1::2])) == 1
    assert comes_to(server, 0, SOON)


VANISHING = """
import json
import sys
from ananke_client import AnankeInferenceClient, AnankeInferenceHTTPClient, GenerationConfig, lease, request
lease.LEASE = request.LEASE = 10
kind, url, call, constraint, max_tokens = sys.argv[1:]
client = {"grpc": AnankeInferenceClient, "http": AnankeInferenceHTTPClient}[kind](url=url)
for part in getattr(client, call)("x", json.loads(constraint), GenerationConfig(max_tokens=int(max_tokens))):
    pass
"""


def test_killed_clients_are_noticed_by_their_leases(server: TritonServer) -> None:
    """A stream and a whole answer over each transport, all at once."""
    urls = {"grpc": server.grpc_url, "http": server.http_url}
    asked = LONG.to_json(), str(LONG_CONFIG.max_tokens)
    clients = [(transport, url, call, *asked) for transport, url in urls.items() for call in ("generate_stream", "generate")]
    with ExitStack() as opened:
        processes = [opened.enter_context(subprocess.Popen([sys.executable, "-c", VANISHING, *client])) for client in clients]
        opened.callback(lambda: [process.kill() for process in processes])
        assert comes_to(server, len(clients))
        time.sleep(12)  # longer than a lease, which is renewed
        assert running(server) == len(clients)
        for process in processes:
            process.kill()
        assert comes_to(server, 0, 10 + SOON)
