"""The validate model under load: requests a second and latencies at several concurrencies, of constraints seen before and never seen.

    python scripts/validate_load.py --json results.json

Starts a server with validate alone, unless --url is given. Clients are processes of their own that send serialised gRPC messages and
look for one mark in the answers; what they and the server take of the processors is told, since they share one machine. "Cached" goes
round 200 distinct constraints that every instance of the model has seen; "uncached" never sends one twice. Exit code 1 where an
answer is neither an acceptance nor `overloaded`, or where the median of cached constraints at concurrency 1 is not under 1 ms.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Barrier
from typing import Any, Final

import grpc
from bench_server import serving, uses
from bench_support import percentiles, print_table, write_json
from corpus import distinct
from tritonclient.grpc import service_pb2

from ananke_client.grpc_codec import CHANNEL_OPTIONS, encode_tensors
from ananke_server.launch import TritonServer

DISTINCT: Final = 200
WARM_SECONDS: Final = 5.0
GOAL_MS: Final = 1.0
INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
ACCEPTED: Final = b'"accepted":true'
OVERLOADED: Final = b'"overloaded"'


@dataclass(frozen=True, slots=True)
class Load:
    """What one client process is to send: the constraints of these numbers, one after the other, by so many threads."""

    url: str
    outputs: tuple[str, ...]
    threads: int
    seconds: float
    first: int
    step: int
    distinct: int | None
    """How many there are to go round; None: every one is new."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What one client process saw."""

    latencies: list[float]
    overloaded: int
    wrong: int
    cpu_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row: a mode at one concurrency."""

    mode: str
    concurrency: int
    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    overloaded: int
    wrong: int
    client_cores: float
    server_cores: float | None


def main() -> int:
    arguments = _arguments()
    with _server(arguments) as (url, server):
        outputs = ("constraint_report", "compiled") if arguments.full else ("constraint_report",)
        measure = Measuring(url, outputs, arguments.processes, arguments.seconds, server.session.members if server else None)
        measure.warm()
        rows = [measure.cached(concurrency) for concurrency in arguments.concurrency]
        rows += [measure.uncached(concurrency) for concurrency in arguments.concurrency]
    names = list(asdict(rows[0]))
    print_table(names, [["-" if value is None else value for value in asdict(row).values()] for row in rows])
    single = [row.p50_ms for row in rows if (row.mode, row.concurrency) == ("cached", 1)]
    if single:
        print(f"cached, one at a time: p50 {single[0]:.3f} ms, {'under' if single[0] < GOAL_MS else 'NOT UNDER'} {GOAL_MS} ms")
    if arguments.json:
        write_json(
            arguments.json,
            {"outputs": outputs, "distinct": DISTINCT, "processes": arguments.processes, "rows": [asdict(row) for row in rows]},
        )
    return 1 if any(row.wrong for row in rows) or any(p50 >= GOAL_MS for p50 in single) else 0


class Measuring:
    """Takes measurements of one server, one after the other."""

    def __init__(self, url: str, outputs: tuple[str, ...], processes: int, seconds: float, pids: Callable[[], list[int]] | None) -> None:
        self._url = url
        self._outputs = outputs
        self._processes = processes
        self._seconds = seconds
        self._pids = pids
        self._unseen = DISTINCT
        self._context = multiprocessing.get_context("spawn")

    def warm(self) -> None:
        """Send every one of the distinct constraints often enough that each instance of the model has seen them."""
        self._run(2, WARM_SECONDS, DISTINCT)
        self._run(8, WARM_SECONDS, DISTINCT)

    def cached(self, concurrency: int) -> Measurement:
        return self._measure("cached", concurrency, DISTINCT)

    def uncached(self, concurrency: int) -> Measurement:
        return self._measure("uncached", concurrency, None)

    def _measure(self, mode: str, concurrency: int, distinct_: int | None) -> Measurement:
        begin = self._server_seconds()
        sent = self._run(concurrency, self._seconds, distinct_)
        end = self._server_seconds()
        latencies = [latency for one in sent for latency in one.latencies]
        seconds = max(one.seconds for one in sent)
        times = percentiles(latencies, scale=1e3)
        return Measurement(
            mode=mode,
            concurrency=concurrency,
            requests=len(latencies),
            per_second=round(len(latencies) / seconds, 1),
            p50_ms=times["p50"],
            p99_ms=times["p99"],
            max_ms=times["max"],
            overloaded=sum(one.overloaded for one in sent),
            wrong=sum(one.wrong for one in sent),
            client_cores=round(sum(one.cpu_seconds for one in sent) / seconds, 2),
            server_cores=None if begin is None or end is None else round((end - begin) / seconds, 2),
        )

    def _run(self, concurrency: int, seconds: float, distinct_: int | None) -> list[Sent]:
        """One load, spread over client processes that begin together."""
        processes = min(self._processes, concurrency)
        barrier = self._context.Barrier(processes)
        results = self._context.SimpleQueue()
        children = []
        for number in range(processes):
            threads = concurrency // processes + (number < concurrency % processes)
            load = Load(self._url, self._outputs, threads, seconds, self._first(number, distinct_), processes, distinct_)
            children.append(self._context.Process(target=_client, args=(load, barrier, results), daemon=True))
            children[-1].start()
        sent = [results.get() for _ in children]
        for child in children:
            child.join()
        if failed := [one for one in sent if isinstance(one, str)]:
            raise RuntimeError(failed[0])
        if distinct_ is None:
            self._unseen += processes * max(len(one.latencies) + concurrency for one in sent)
        return sent

    def _first(self, number: int, distinct_: int | None) -> int:
        return number if distinct_ is not None else self._unseen + number

    def _server_seconds(self) -> float | None:
        return sum(use.cpu_seconds for use in uses(self._pids())) if self._pids else None


def _client(load: Load, barrier: Barrier, results: Any) -> None:
    """A client process: all its threads share one channel."""
    try:
        results.put(_send(load, barrier))
    except Exception as error:  # the parent waits for an answer, whatever happens
        barrier.abort()
        results.put(f"a client failed: {type(error).__name__}: {error}")


def _send(load: Load, barrier: Barrier) -> Sent:
    latencies: list[float] = []
    refused: list[bytes] = []
    lock = threading.Lock()
    messages = _messages(load)
    with grpc.insecure_channel(load.url, options=CHANNEL_OPTIONS) as channel:
        infer = channel.unary_unary(INFER, request_serializer=None, response_deserializer=None)
        grpc.channel_ready_future(channel).result(30)
        barrier.wait(60)
        begin, cpu = time.perf_counter(), time.process_time()

        def work() -> None:
            mine, refusals = [], []
            while time.perf_counter() - begin < load.seconds:
                with lock:
                    message = next(messages)
                sent = time.perf_counter()
                answer = infer(message, timeout=60)
                mine.append(time.perf_counter() - sent)
                if ACCEPTED not in answer:
                    refusals.append(answer)
            with lock:
                latencies.extend(mine)
                refused.extend(refusals)

        threads = [threading.Thread(target=work) for _ in range(load.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        overloaded = sum(OVERLOADED in answer for answer in refused)
        return Sent(latencies, overloaded, len(refused) - overloaded, time.process_time() - cpu, time.perf_counter() - begin)


def _messages(load: Load) -> Iterator[bytes]:
    numbers = itertools.count(load.first, load.step)
    if load.distinct is None:
        return (message_of(number, load.outputs) for number in numbers)
    return itertools.cycle([message_of(number, load.outputs) for number in range(load.distinct)])


def message_of(number: int, outputs: tuple[str, ...]) -> bytes:
    """The serialised request that validates the constraint of this number."""
    message: service_pb2.ModelInferRequest = encode_tensors("validate", {"constraint": distinct(number)})
    for name in outputs:
        message.outputs.add(name=name)
    serialised: bytes = message.SerializeToString()
    return serialised


@contextmanager
def _server(arguments: argparse.Namespace) -> Iterator[tuple[str, TritonServer | None]]:
    if arguments.url:
        yield arguments.url, None
        return
    with serving(["validate"], "validate-load") as server:
        yield server.grpc_url, server


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--processes", type=int, default=2, help="of clients, at most")
    parser.add_argument("--full", action="store_true", help="ask for the sealed grammar too, as the ensemble does")
    parser.add_argument("--url", help="host:port of the gRPC of a server that is up already")
    parser.add_argument("--json", help="a file for the results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
