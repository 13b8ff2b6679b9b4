"""A server of its own: little KV cache, so that requests are preempted and resumed, connections that break, an engine that goes to
sleep, and Triton's own death. Its exit is not checked: Triton 2.51 never releases some requests whose gRPC connection breaks."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from bench_server import found
from fault_proxy import FaultProxy
from four_clients import FOUR, make_client
from real_server import start_server
from waiting import PATIENCE, TOLD_SECONDS, wait_until

from ananke_client import (
    AnankeInferenceClient,
    ConstraintSpec,
    DeadlineExceededError,
    EngineUnavailableError,
    GenerationConfig,
    GenerationResult,
    OverloadedError,
    RetryPolicy,
)
from ananke_server.launch import TritonServer

# Eight requests of some 160 tokens need 1,280; the cache holds 512.
BLOCKS, BLOCK_SIZE, REQUESTS = 16, 32, 8
PENDING = 40
IDLE_SECONDS = 20.0
SHORT = ConstraintSpec.regex("[0-9]{4}")


@pytest.fixture(scope="module")
def small_server() -> Iterator[TritonServer]:
    engine_args = f'{{"num_gpu_blocks_override": {BLOCKS}, "block_size": {BLOCK_SIZE}, "enable_prefix_caching": false}}'
    server = start_server(
        "small",
        ANANKE_MAX_MODEL_LEN="400",
        ANANKE_ENGINE_ARGS=engine_args,
        ANANKE_IDLE_TIMEOUT=str(IDLE_SECONDS),
        ANANKE_CONCURRENCY=str(REQUESTS),
        ANANKE_MAX_PENDING=str(PENDING),
    )
    yield server
    server.stop()


def test_preempted_requests_are_resumed_within_their_constraints(small_server: TritonServer) -> None:
    constraint = ConstraintSpec.regex("([0-9]{3}-){30}[a-z]{5}")
    with AnankeInferenceClient(url=small_server.grpc_url) as client, ThreadPoolExecutor(REQUESTS) as pool:
        config = [GenerationConfig(max_tokens=300, temperature=1.0, seed=seed) for seed in range(REQUESTS)]
        results = list(pool.map(lambda one: client.generate("Numbers: ", constraint, one), config))
    assert all(result.constraint_satisfied for result in results)
    assert sum(result.metrics["mask"]["resumed"] for result in results) > 0, "no request was preempted: the cache is too large"


def test_faulty_connections_lose_no_item_and_deliver_no_token_twice(small_server: TritonServer) -> None:
    """The four clients at once, each behind proxies of its own."""
    with ThreadPoolExecutor(len(FOUR)) as pool:
        for tried in [pool.submit(behind_faulty_connections, small_server, kind) for kind in FOUR]:
            tried.result()


def behind_faulty_connections(server: TritonServer, kind: str) -> None:
    """A batch and streams of one client, through proxies that drop, delay and reset."""
    port = server.grpc_port if kind.startswith("grpc") else server.http_port
    patient = RetryPolicy(attempts=40, first=0.05, factor=1.3, longest=0.4)
    digits, config = ConstraintSpec.regex("([0-9]{2} ){10}"), GenerationConfig(max_tokens=40, seed=3)
    with make_client(kind, port) as client:
        expected = client.generate("Numbers: ", digits, config).text
    with FaultProxy(port, faults=10, seed=2) as proxy, make_client(kind, proxy.port, timeout=300, retry=patient) as client:
        outcomes = client.generate_batch(["Numbers: "] * 8, digits, config, concurrency=4)
    assert [getattr(outcome, "text", outcome) for outcome in outcomes] == [expected] * 8, kind
    assert proxy.met.total() >= 4, (kind, proxy.met)
    cut = 0
    with FaultProxy(port, faults=8, seed=4) as proxy, make_client(kind, proxy.port, timeout=300, retry=patient) as client:
        for _ in range(8):
            delivered: list[str] = []
            try:
                delivered.extend(client.generate_stream("Numbers: ", digits, config))
            except EngineUnavailableError:
                cut += 1
                assert delivered, f"{kind}: nothing was delivered, so it should have been tried again"
                assert expected.startswith("".join(delivered)), kind
            else:
                assert "".join(delivered) == expected, kind
    assert 0 < cut <= proxy.met["reset"] + proxy.met["cut"], (kind, proxy.met)


def test_a_flood_of_one_client_leaves_room_for_anothers_single_request(small_server: TritonServer) -> None:
    """More than the queue takes: the flood's own requests are refused at once, each with a hint when to come again."""
    refused_after: list[float] = []

    def ask() -> GenerationResult:
        begun = time.monotonic()
        try:
            return flood.generate("x", ConstraintSpec.regex("[0-9]{30}"))
        except OverloadedError:
            refused_after.append(time.monotonic() - begun)
            raise

    url, once = small_server.grpc_url, RetryPolicy(attempts=1)
    with AnankeInferenceClient(url=url, retry=once) as flood, AnankeInferenceClient(url=url, retry=once) as single:
        with ThreadPoolExecutor(2 * PENDING) as pool:
            asked = [pool.submit(ask) for _ in range(2 * PENDING)]
            while not any(future.done() for future in asked):
                time.sleep(0.01)
            assert single.generate("x", SHORT).constraint_satisfied
            still_waiting = sum(not future.done() for future in asked)
        refused = [future.exception() for future in asked if future.exception() is not None]
    assert still_waiting > REQUESTS
    assert refused
    assert max(refused_after) < TOLD_SECONDS
    for error in refused:
        assert isinstance(error, OverloadedError)
        assert error.retry_after is not None
    assert all(future.result().constraint_satisfied for future in asked if future.exception() is None)


def test_an_idle_engine_lets_go_until_it_is_wanted(small_server: TritonServer) -> None:
    """On CPU its processes end. Validation and health do without it; requests that come together wake it once."""
    with AnankeInferenceClient(url=small_server.grpc_url, retry=RetryPolicy(attempts=1)) as client, ThreadPoolExecutor(4) as pool:
        wait_until(lambda: not found(small_server, "VLLM::"), IDLE_SECONDS + PATIENCE)
        assert client.validate(SHORT).accepted
        assert client.health_check().ready
        assert not client.validate(ConstraintSpec.regex("(")).accepted
        time.sleep(1)
        assert not found(small_server, "VLLM::")
        with pytest.raises(DeadlineExceededError):
            client.generate("x", SHORT, timeout=1)
        results = list(pool.map(lambda _: client.generate("x", SHORT), range(4)))
        assert all(result.constraint_satisfied for result in results)
        assert len(found(small_server, "VLLM::EngineCore")) == 1


def test_a_killed_server_is_told_at_once_and_no_token_comes_twice(small_server: TritonServer) -> None:
    """The last test here: Triton's own process dies, with a stream of each client and a whole answer under way."""
    digits, config = ConstraintSpec.regex("[0-9]{380}"), GenerationConfig(max_tokens=385, seed=3)
    delivered: dict[str, list[str]] = {kind: [] for kind in FOUR}

    def read(kind: str, *, whole: bool = False) -> float:
        """When the client was told."""
        port = small_server.grpc_port if kind.startswith("grpc") else small_server.http_port
        with make_client(kind, port, retry=RetryPolicy(attempts=1)) as client:
            if whole:
                with pytest.raises(EngineUnavailableError):
                    client.generate("Numbers: ", digits, config)
            else:
                stream = client.generate_stream("Numbers: ", digits, config)
                with pytest.raises(EngineUnavailableError):
                    delivered[kind].extend(stream)
        return time.monotonic()

    with ThreadPoolExecutor(6) as pool:
        told = [pool.submit(read, kind) for kind in FOUR] + [pool.submit(read, kind, whole=True) for kind in ("grpc", "http")]
        wait_until(lambda: all(delivered.values()))
        os.kill(small_server.session.leader, signal.SIGKILL)
        killed = time.monotonic()
        assert max(future.result() for future in told) - killed < TOLD_SECONDS
    texts = sorted(("".join(deltas) for deltas in delivered.values()), key=len)
    assert all(text.isdigit() and len(text) < 380 and texts[-1].startswith(text) for text in texts)
