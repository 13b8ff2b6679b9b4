"""Faults on one real server: full disks, clients that go silent, a mixed load, and a clock that jumps."""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mixed_load
import patient_http
import psutil
import pytest
from bench_server import uses
from four_clients import FOUR, make_client
from mixed_requests import SHARES
from real_server import kill, require_model, start_server
from server_metrics import totals
from silent_clients import KINDS, silent_clients
from small_disk import FILL, MountRefusedError, fill, free, limited, small_disk
from waiting import PATIENCE, eventually, wait_until
from wall_clock import COMPILER, WallClock

from ananke_client import (
    AnankeError,
    CancelledError,
    ConstraintSpec,
    DeadlineExceededError,
    EngineUnavailableError,
    GenerationConfig,
    GenerationResult,
    RetryPolicy,
)
from ananke_client.errors import from_wire
from ananke_server.launch import PROJECT, TritonServer
from ananke_server.model_processes import ModelProcesses

DISK_KIB, CACHE_KIB = 8192, 64
HOUR = 3600
SILENT = 204
LOAD_SECONDS = 20.0
DIGITS, LONG = ConstraintSpec.regex("[0-9]{40}"), ConstraintSpec.regex("[0-9]{4000}")
CONFIG, LONG_CONFIG = GenerationConfig(max_tokens=60, seed=7), GenerationConfig(max_tokens=4100, seed=7)
ONCE = RetryPolicy(attempts=1)


@dataclass(frozen=True)
class Faulty:
    """A server whose provenance log, own log and caches lie on small disks, where there are any, and whose clock can jump."""

    server: TritonServer
    clock: WallClock | None
    disk: Path
    mounted: bool
    cache: Path

    @property
    def provenance_log(self) -> Path:
        return self.disk / "provenance.jsonl"

    @contextmanager
    def client(self, kind: str, **settings: Any) -> Iterator[Any]:
        port = self.server.grpc_port if kind.startswith("grpc") else self.server.http_port
        with make_client(kind, port, **{"timeout": 60, "retry": ONCE, **settings}) as client:
            yield client

    def log(self) -> str:
        assert self.server.log_file is not None
        return self.server.log_file.read_text(errors="replace")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    require_model()
    folder = tmp_path_factory.mktemp("faults")
    with ExitStack() as opened:
        disk, cache, mounted = folder / "disk", folder / "cache", True
        try:
            opened.enter_context(small_disk(disk, DISK_KIB))
            opened.enter_context(small_disk(cache, CACHE_KIB))
            fill(cache)
        except MountRefusedError:
            # No file can be made in /proc either; vLLM's caches are left where they are.
            disk.mkdir(exist_ok=True)
            cache, mounted = Path("/proc"), False
        caches = {"XDG_CACHE_HOME": cache, "VLLM_CACHE_ROOT": cache / "vllm", "TORCHINDUCTOR_CACHE_DIR": cache / "inductor"}
        clock = WallClock(folder) if COMPILER else None
        opened.callback(keep, disk / "triton.log")
        server = start_server(
            "faults",
            log_file=disk / "triton.log",
            ANANKE_PROVENANCE_LOG=str(disk / "provenance.jsonl"),
            ANANKE_PROVENANCE_LOG_FSYNC="always",
            ANANKE_DIGEST_CACHE=str(cache / "digests.json"),
            **({name: str(path) for name, path in caches.items()} if mounted else {}),
            **(clock.environment if clock else {}),
        )
        opened.callback(server.stop, grace=2)
        yield Faulty(server, clock, disk, mounted, cache)


def keep(log: Path) -> None:
    """Have the server's log where those of the other servers are: its disk goes with the test."""
    shutil.copy(log, PROJECT / ".ananke" / "run" / "test-faults.log")


def test_a_full_disk_for_the_caches_costs_the_caches_alone(faulty: Faulty) -> None:
    """It was full when the server started."""
    with faulty.client("grpc") as client:
        result = client.generate("Numbers: ", DIGITS, CONFIG)
    assert result.constraint_satisfied
    assert result.provenance["predicate"]["model"]["sha256"], "the digests are made all the same"
    why = "No space left on device" if faulty.mounted else "No such file or directory"
    assert "digests of the model's files are not kept" in faulty.log()
    assert why in faulty.log()
    if faulty.mounted:
        left = [path for path in faulty.cache.rglob("*") if path.is_file() and path.name != FILL]
        assert left == [], "what was begun is taken away again"


@pytest.mark.parametrize("way", ["disk", "file"])
def test_a_full_disk_for_the_logs_loses_lines_and_no_answer(faulty: Faulty, way: str) -> None:
    """``disk``: nothing fits on it, the server's own log as little as the provenance log. ``file``: a limit within a line."""
    if way == "disk" and not faulty.mounted:
        pytest.skip("this machine lets nobody mount a small disk; the other way is tried")
    kept: list[GenerationResult] = []
    with ExitStack() as opened, faulty.client("grpc") as grpc, faulty.client("http") as http:
        kept.append(grpc.generate("Numbers: ", DIGITS, CONFIG))
        stream = http.generate_stream("Numbers: ", ConstraintSpec.regex("[0-9]{100}"), GenerationConfig(max_tokens=110, seed=7))
        next(stream)
        if way == "disk":
            fill(faulty.disk)
            opened.callback(free, faulty.disk)
        else:
            opened.enter_context(limited(faulty.server, faulty.provenance_log, 500))
        list(stream)
        answers = [stream.result, *(client.generate("Numbers: ", DIGITS, CONFIG) for client in (grpc, http, grpc, http))]
        assert all(answer.constraint_satisfied for answer in answers)
        assert eventually(faulty.server.ready)
        told = [answer.metrics["provenance_log"] for answer in answers]
        assert [each["line"] for each in told] == ["lost"] * 5
        assert {each["error"] for each in told} == {"No space left on device" if way == "disk" else "File too large"}
        assert told[-1]["lost"] - told[0]["lost"] == 4
        opened.close()
        kept.append(http.generate("Numbers: ", DIGITS, CONFIG))
    assert kept[0].metrics["provenance_log"]["line"] == kept[1].metrics["provenance_log"]["line"] == "written"
    lines = faulty.provenance_log.read_text().splitlines()
    logged = [json.dumps(json.loads(line)["envelope"], sort_keys=True) for line in lines]
    assert logged[-2:] == [json.dumps(json.loads(result.envelope), sort_keys=True) for result in kept]
    wait_until(lambda: f"written again; {told[-1]['lost']} lines are lost" in faulty.log())


def test_silent_clients_leave_the_server_to_others_and_leave_nothing(faulty: Faulty) -> None:
    """Connected and silent, with half a head, with half a body, and streams that nobody reads, over both transports."""
    with faulty.client("grpc") as grpc, faulty.client("http") as http:
        before_seconds = seconds_a_request(grpc, http)
        before_mib, before = taken(faulty.server)
        answered = settled_requests(faulty.server)
        with silent_clients(faulty.server, SILENT):
            wait_until(lambda: taken(faulty.server)[1].total() >= before.total() + SILENT)
            unread = answered + 2 * SILENT // KINDS
            wait_until(lambda: mixed_load.count(faulty.server, "ananke_requests_total") >= unread, 4 * PATIENCE)
            assert settled_requests(faulty.server) == unread, "the streams that nobody reads do not end"
            assert eventually(lambda: seconds_a_request(grpc, http) < 3 * before_seconds + 1)
        wait_until(lambda: taken(faulty.server)[1].total() <= before.total() + 5)
        mib, handles = taken(faulty.server)
        assert handles.total() <= before.total() + 5, handles - before
        assert mib < before_mib + 100
        assert eventually(lambda: seconds_a_request(grpc, http) < 3 * before_seconds + 1)


def settled_requests(server: TritonServer) -> int:
    """The requests that have ended, once no more are reported: a model reports them a few times a second, after their ends."""
    seen = [-1, mixed_load.count(server, "ananke_requests_total")]
    while seen[-2] != seen[-1]:
        time.sleep(1.5)
        seen.append(mixed_load.count(server, "ananke_requests_total"))
    return seen[-1]


def seconds_a_request(*clients: Any) -> float:
    """The median over some small requests, each of which has to satisfy."""
    times = []
    for client in clients * 5:
        begun = time.monotonic()
        assert client.generate("Numbers: ", ConstraintSpec.regex("[0-9]{8}"), CONFIG).constraint_satisfied
        times.append(time.monotonic() - begun)
    return statistics.median(times)


def taken(server: TritonServer) -> tuple[float, Counter[str]]:
    """MiB of memory (PSS) and the open file handles, by program, of a server's processes, without the sandbox's workers.

    Of those there are as many as the machine's load asks for. vLLM's memory, which keeps the room of its largest batch, is left out.
    """
    processes = [use for use in uses(server.session.members()) if not use.worker]
    handles: Counter[str] = Counter()
    for use in processes:
        handles[use.name] += psutil.Process(use.pid).num_fds()
    return sum(use.mib for use in processes if not use.name.startswith("VLLM")), handles


def test_a_mixed_load_leaves_no_request_without_its_right_end(faulty: Faulty) -> None:
    """Good, bad, cancelled and huge requests at once; scripts/mixed_load.py has the quarter of an hour."""
    outcome = asyncio.run(mixed_load.run(faulty.server, seconds=LOAD_SECONDS, concurrency=12))
    assert outcome.wrong == []
    assert (outcome.left_running, outcome.said_wrong) == (0, 0)
    assert {answer.kind for answer in outcome.answers} == set(SHARES)


@pytest.mark.parametrize("hours", [1, -1], ids=["forward", "back"])
def test_a_jump_of_the_clock_moves_no_deadline_and_no_lease(faulty: Faulty, hours: int) -> None:
    """By an hour while streams run, and a deadline and a lease of 4 s are under way; then back, with requests under way again.

    Of the last tests here: Triton's own gRPC waits for moments of the wall clock, and after a jump back lets go of sockets, and ends, late.
    """
    if faulty.clock is None:
        pytest.skip("no C compiler: tests/faults/test_clocks.py holds the code's clocks alone")
    with ExitStack() as opened, ThreadPoolExecutor(2) as pool:
        clients = [opened.enter_context(faulty.client(kind)) for kind in FOUR]
        streams = [client.generate_stream("Numbers: ", DIGITS, CONFIG) for client in clients]
        for stream in streams:
            next(stream)
        limits = [pool.submit(ended_by, faulty.server, **limit) for limit in ({"deadline_ms": 4000}, {"lease_ms": 4000})]
        time.sleep(1)
        with faulty.clock.jumped(hours * HOUR):
            for stream in streams:
                list(stream)
            assert all(stream.result.constraint_satisfied for stream in streams)
            for (error, seconds), kind in zip((limit.result() for limit in limits), (DeadlineExceededError, CancelledError), strict=True):
                assert isinstance(error, kind)
                assert 3.9 < seconds < 50
            fresh = ConstraintSpec.regex(f"[a-f]{{20}}{hours + 5}")  # so that the sandbox has something to compile
            during = [client.generate("Letters: ", fresh, CONFIG) for client in clients]
            told = datetime.fromisoformat(during[-1].provenance["predicate"]["finished_at"])
            assert abs((told - datetime.now(UTC)).total_seconds() - hours * HOUR) < 60, "the server's clock did not jump"
            streams = [client.generate_stream("Numbers: ", DIGITS, CONFIG) for client in clients]
            for stream in streams:
                next(stream)
        for stream in streams:
            list(stream)
        assert all(result.constraint_satisfied for result in [*during, *(stream.result for stream in streams)])
        assert clients[0].health_check().ready


def test_a_models_process_that_dies_is_noticed_and_its_streams_end_with_the_server(faulty: Faulty) -> None:
    """The last test here: what serves in the foreground stops the server then (tests/unit/test_foreground.py)."""
    assert faulty.server.lost_model() is None
    models = ModelProcesses(faulty.server.session.leader).running()
    assert set(models.values()) == {"validate", "guided_vllm", "guided_relay", "generate_once"}
    with faulty.client("grpc") as grpc, faulty.client("http") as http, ThreadPoolExecutor(2) as pool:
        streams = [client.generate_stream("Numbers: ", LONG, LONG_CONFIG) for client in (grpc, http)]
        for stream in streams:
            next(stream)
        kill(faulty.server, "guided_relay")
        wait_until(lambda: faulty.server.lost_model() == "guided_relay", PATIENCE)
        health = grpc.health_check()
        assert not health.ready
        assert health.status.lost_model == "guided_relay"
        with pytest.raises(EngineUnavailableError, match="not healthy"):
            http.generate("Numbers: ", DIGITS, CONFIG)
        wait_until(lambda: totals(faulty.server)["ananke_requests_running"] == 0, PATIENCE)
        faulty.server.stop(grace=2)
        for read in [pool.submit(list, stream) for stream in streams]:
            with pytest.raises(EngineUnavailableError):
                read.result()


def ended_by(server: TritonServer, **limit: int) -> tuple[AnankeError | None, float]:
    """The error that ends a request of minutes under a limit, and after how long."""
    body = {
        "text_input": "Numbers: ",
        "constraint": LONG.to_json(),
        "sampling_parameters": json.dumps({"max_tokens": LONG_CONFIG.max_tokens}),
        **limit,
    }
    begun = time.monotonic()
    answer = patient_http.post(f"http://{server.http_url}/v2/models/generate/generate", json=body)
    return from_wire(answer.json()["error"]), time.monotonic() - begun
