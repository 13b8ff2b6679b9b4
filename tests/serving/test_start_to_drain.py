"""A server's whole life, as `make bench` starts it and a cluster ends it, the deaths of its processes between. The bounds are such as
only something broken exceeds, and what is to be under way when something ends would take far longer by itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import patient_http
import pytest
from bench import ColdStart, started
from four_clients import make_client
from real_server import kill
from running_requests import LONG, LONG_CONFIG
from waiting import PATIENCE, SOON, TOLD_SECONDS, wait_until

from ananke_client import (
    AnankeError,
    AnankeInferenceClient,
    CancelledError,
    ConstraintSpec,
    EngineUnavailableError,
    GenerationConfig,
    GenerationResult,
    RetryPolicy,
)
from ananke_server.launch import PROJECT, QUIET_SECONDS, TritonServer
from ananke_server.session import STRAGGLERS_SECONDS

DRAINED_SECONDS = 30.0 + STRAGGLERS_SECONDS  # what the chart and deploy.sh count on
RESTART_SECONDS = 120.0  # it takes some 20 on two cores that nobody shares
SHORT = ConstraintSpec.regex("[0-9]{8}")
Started = tuple[TritonServer, ColdStart]


@pytest.fixture(scope="module")
def life() -> Iterator[Started]:
    before = signal.getsignal(signal.SIGTERM)
    with started() as both:
        yield both
    signal.signal(signal.SIGTERM, before)


def test_a_cold_start_is_timed(life: Started) -> None:
    _, cold = life
    assert 1 < cold.ready_seconds < 500
    assert cold.ready_seconds < cold.first_token_seconds < cold.ready_seconds + 60


def test_a_small_load_is_timed(life: Started) -> None:
    server, _ = life
    command = [sys.executable, PROJECT / "scripts" / "bench.py", "--server", server.grpc_url, "--json"]
    load = ["--requests", "2", "--concurrency", "2", "--max-tokens", "8"]
    done = subprocess.run([*command, *load], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["cold_start"] is None
    for each in (figures["unconstrained"], figures["constrained"]):
        assert (each["answered"], each["failed"]) == (2, 0)
        assert 0 < each["first_token_ms"][1] < 20_000
        assert 0 < each["per_token_ms"][1] < 5_000


def test_it_can_be_seen_to_generate(life: Started) -> None:
    """What a cluster's probes run."""
    server, _ = life
    environment = os.environ | {"ANANKE_HTTP_URL": f"http://{server.http_url}"}
    for options in ([], ["--generate"]):
        command = [str(Path(sys.executable).with_name("ananke")), "health", "--http", *options]
        assert subprocess.run(command, env=environment, capture_output=True, timeout=60).returncode == 0


def test_models_can_neither_be_loaded_nor_unloaded_by_a_request(life: Started) -> None:
    server, _ = life
    for verb in ("load", "unload"):
        assert patient_http.post(f"http://{server.http_url}/v2/repository/models/validate/{verb}").is_error
    assert patient_http.get(f"http://{server.http_url}/v2/models/validate/ready").is_success


def test_dead_mask_processes_end_what_is_constrained_and_are_started_again(life: Started) -> None:
    server, _ = life
    with AnankeInferenceClient(url=server.grpc_url, retry=RetryPolicy(attempts=1)) as client:
        stream = client.generate_stream("x", LONG, LONG_CONFIG)
        free = client.generate_stream("Once upon a time", config=GenerationConfig(max_tokens=8, temperature=1.0, seed=1))
        next(stream)
        next(free)
        kill(server, "ananke_server.masking.foreman")
        started = time.monotonic()
        with pytest.raises(EngineUnavailableError, match="fill masks"):
            list(stream)
        list(free)
        assert free.result.usage.completion_tokens > 0
        assert time.monotonic() - started < TOLD_SECONDS
        assert client.generate("x", SHORT).constraint_satisfied
        assert time.monotonic() - started < RESTART_SECONDS


def test_a_dead_engine_is_told_and_started_again(life: Started) -> None:
    """Over both transports at once."""
    server, _ = life
    once = RetryPolicy(attempts=1)
    with (
        make_client("grpc", server.grpc_port, retry=once) as grpc,
        make_client("http", server.http_port, retry=once) as http,
        ThreadPoolExecutor(2) as pool,
    ):
        streams = [client.generate_stream("Digits: ", LONG, LONG_CONFIG) for client in (grpc, http)]
        for stream in streams:
            next(stream)
        kill(server, "VLLM::")
        started = time.monotonic()
        for read in [pool.submit(list, stream) for stream in streams]:
            with pytest.raises(EngineUnavailableError, match="died"):
                read.result()
        assert time.monotonic() - started < TOLD_SECONDS
        assert all(client.generate("x", SHORT).constraint_satisfied for client in (grpc, http))
        assert time.monotonic() - started < RESTART_SECONDS


def test_a_drain_waits_for_what_is_under_way_and_more_is_taken_meanwhile(life: Started) -> None:
    server, _ = life
    with AnankeInferenceClient(url=server.grpc_url, timeout=300) as client, ThreadPoolExecutor(1) as pool:
        with client.generate_stream("Digits: ", LONG, LONG_CONFIG) as stream:
            next(iter(stream))
            draining = pool.submit(server.drain, 300)
            assert client.generate("Digits: ", SHORT, LONG_CONFIG).constraint_satisfied
            time.sleep(2 * QUIET_SECONDS)
            assert not draining.done()
        draining.result(PATIENCE)
    begun = time.monotonic()
    server.drain(300)
    assert time.monotonic() - begun < PATIENCE, "nothing is under way"


def test_requests_under_way_end_in_full_when_the_server_is_told_to_stop(life: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last test here: it ends the server, as `make stop` does. What would take minutes ends with a typed error, within the time too."""
    server, _ = life
    ports = {"grpc": server.grpc_port, "http": server.http_port}
    long, brief = (LONG, LONG_CONFIG), (ConstraintSpec.regex("[0-9]{60}"), GenerationConfig(seed=3))

    def generate(kind: str, what: Any) -> GenerationResult | AnankeError:
        with make_client(kind, ports[kind], timeout=120) as client, client.generate_stream("Digits: ", *what) as stream:
            try:
                for _ in stream:
                    begun.append((kind, what))
            except AnankeError as error:
                return error
        return stream.result

    begun: list[Any] = []
    with ThreadPoolExecutor(5) as pool:
        lasting = [pool.submit(generate, kind, long) for kind in ports]
        wait_until(lambda: all((kind, long) in begun for kind in ports))
        monkeypatch.setattr("ananke_client.request.LEASE", 25.0)  # a machine with other work takes ten seconds for the brief ones
        ending = [pool.submit(generate, kind, brief) for kind in ports]
        wait_until(lambda: all((kind, brief) in begun for kind in ports))
        too_early = [end for end in (*lasting, *ending) if end.done()]
        stopping, told = pool.submit(server.stop), time.monotonic()
        assert not too_early, [end.result() for end in too_early]
        for end in ending:
            result = end.result()
            assert isinstance(result, GenerationResult), result
            assert result.constraint_satisfied
        # A Triton that stops takes no renewal over a new connection, and ends itself before these would end.
        assert all(isinstance(end.result(), CancelledError | EngineUnavailableError) for end in lasting)
    stopping.result()
    assert time.monotonic() - told < DRAINED_SECONDS + SOON
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", server.http_port), timeout=5):
        pass
