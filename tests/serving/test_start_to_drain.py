"""A server's whole life, as `make bench` starts it and a cluster ends it. The bounds are such as only something broken exceeds."""

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

import httpx
import pytest
from bench import ColdStart, started
from waiting import PATIENCE, wait_until

from ananke_client import (
    AnankeError,
    AnankeInferenceClient,
    AnankeInferenceHTTPClient,
    CancelledError,
    ConstraintSpec,
    EngineUnavailableError,
    GenerationConfig,
    GenerationResult,
)
from ananke_server.launch import PROJECT, QUIET_SECONDS, TritonServer
from ananke_server.session import STRAGGLERS_SECONDS

DRAINED_SECONDS = 30.0 + STRAGGLERS_SECONDS  # what the chart and deploy.sh count on
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
        assert httpx.post(f"http://{server.http_url}/v2/repository/models/validate/{verb}").is_error
    assert httpx.get(f"http://{server.http_url}/v2/models/validate/ready").is_success


def test_a_drain_waits_for_what_is_under_way_and_more_is_taken_meanwhile(life: Started) -> None:
    server, _ = life
    long, short = ConstraintSpec.regex("[0-9]{4000}"), ConstraintSpec.regex("[0-9]{8}")
    config = GenerationConfig(max_tokens=4100, seed=3)
    with AnankeInferenceClient(url=server.grpc_url, timeout=300) as client, ThreadPoolExecutor(1) as pool:
        with client.generate_stream("Digits: ", long, config) as stream:
            next(iter(stream))
            draining = pool.submit(server.drain, 300)
            assert client.generate("Digits: ", short, config).constraint_satisfied
            time.sleep(2 * QUIET_SECONDS)
            assert not draining.done()
        draining.result(PATIENCE)
    begun = time.monotonic()
    server.drain(300)
    assert time.monotonic() - begun < PATIENCE, "nothing is under way"


def test_requests_under_way_end_in_full_when_the_server_is_told_to_stop(life: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last test here: it ends the server. What would take minutes ends with a typed error, within the time to drain too."""
    for module in ("request", "lease"):
        monkeypatch.setattr(f"ananke_client.{module}.LEASE", 8.0)
    server, _ = life
    short = ConstraintSpec.regex("[0-9]{60}"), GenerationConfig(max_tokens=80, seed=3)
    long = ConstraintSpec.regex("[0-9]{4000}"), GenerationConfig(max_tokens=4100, seed=3)

    def generate(kind: type[AnankeInferenceClient] | type[AnankeInferenceHTTPClient], what: Any) -> GenerationResult | AnankeError:
        url = server.grpc_url if kind is AnankeInferenceClient else f"http://{server.http_url}"
        with kind(url=url, timeout=120) as client, client.generate_stream("Digits: ", *what) as stream:
            try:
                for _ in stream:
                    begun.append((kind, what))
            except AnankeError as error:
                return error
        return stream.result

    begun: list[Any] = []
    kinds = (AnankeInferenceClient, AnankeInferenceHTTPClient)
    with ThreadPoolExecutor(4) as pool:
        lasting = [pool.submit(generate, kind, long) for kind in kinds]
        wait_until(lambda: all((kind, long) in begun for kind in kinds))
        ending = [pool.submit(generate, kind, short) for kind in kinds]
        wait_until(lambda: all((kind, short) in begun for kind in kinds))
        under_way = not any(end.done() for end in (*lasting, *ending))
        os.kill(server.session.leader, signal.SIGTERM)
        told = time.monotonic()
        assert under_way
        for end in ending:
            result = end.result()
            assert isinstance(result, GenerationResult), result
            assert result.constraint_satisfied
        # A Triton that stops takes no renewal of a lease any more, so that a request of ours that lasts ends with its lease.
        assert all(isinstance(end.result(), CancelledError | EngineUnavailableError) for end in lasting)
    wait_until(lambda: not server.running)
    assert time.monotonic() - told < DRAINED_SECONDS
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", server.http_port), timeout=5):
        pass
