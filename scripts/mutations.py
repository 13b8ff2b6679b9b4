"""Mutated constraints through a real server: every one is answered with a code of the closed set, and nothing is left behind.

    python scripts/mutations.py --count 10000 --json results.json

Starts a server of its own unless --grpc and --http are given. All mutants go to `validate` as raw tensors, half by gRPC and half by
HTTP; --generate of them go to `generate` too. Memory is each process's share (PSS), after a warm-up by other mutants and at the end;
the server's caches, which are bounded, are made so small that the warm-up fills them, and it goes on until memory grows no more, so
long as that takes less than WARM_UP_ROUNDS. The sandbox's workers, which come and go, are listed and not counted: their kernel limits
bound them. Exit code 1 where an answer is missing,
internal or of no known code, where a constraint is accepted without a guarantee, where the server is not ready at the end, or where
memory grew by more than 10 %.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench_server import ProcessUse, resident_mib, serving, settled
from bench_support import percentiles, print_table, write_json
from mutant_client import CODES, Answer, MutantClient
from mutants import Mutant, mutants

from ananke_server.launch import TritonServer, is_ready

WARM_UP: Final = 2_000
WARM_UP_ROUNDS: Final = 8
STEADY: Final = 0.02
CACHE: Final = {"ANANKE_COMPILE_CACHE_ENTRIES": "128", "ANANKE_COMPILE_CACHE_MIB": "2"}
"""Within these bounds memory depends on how large the constraints are that came last."""
GROWTH: Final = 0.10
SLACK_MIB: Final = 16.0
"""One process alone may grow by this much, whatever its size; all together only by ``GROWTH``."""


@dataclass(frozen=True, slots=True)
class Record:
    """One mutant and its answer."""

    number: int
    to: str
    mutation: str
    bytes: int
    answer: Answer


def main() -> int:
    arguments = _arguments()
    with _server(arguments) as (grpc_url, http_url, server):
        client = MutantClient(grpc_url, http_url)
        pids = server.session.members if server else list
        before = _warmed(client, arguments, pids)
        begin = time.monotonic()
        with _peak(pids) as peak:
            records = _send(client.validate, mutants(arguments.seed), arguments.count, arguments.concurrency, "validate")
            if arguments.generate:
                step = max(1, arguments.count // arguments.generate)
                some = itertools.islice(mutants(arguments.seed), 0, None, step)
                records += _send(client.generate, some, arguments.generate, arguments.concurrency, "generate")
        seconds = time.monotonic() - begin
        after = settled(pids())
        ready = is_ready(http_url)
    faults = [record for record in records if record.answer.fault]
    memory = _memory(before, after) | {"peak_resident_mib": round(peak[0], 1)}
    _print(records, faults, memory, seconds, ready)
    if arguments.json:
        write_json(arguments.json, _content(arguments, records, faults, memory, seconds, ready))
    return 1 if faults or not ready or not memory["within"] else 0


def _send(send: Callable[[int, Mutant], Answer], source: Iterator[Mutant], count: int, concurrency: int, to: str) -> list[Record]:
    """Send this many mutants, so many at a time. They are made as they are sent: together they would fill the memory."""
    records, lock = [], threading.Lock()
    numbered = enumerate(itertools.islice(source, count))

    def work() -> None:
        while True:
            with lock:
                if (next_ := next(numbered, None)) is None:
                    return
            number, mutant = next_
            record = Record(number, to, mutant.mutation, len(mutant.data), send(number, mutant))
            with lock:
                records.append(record)
                if len(records) % 500 == 0:
                    print(f"{to}: {len(records)} of {count}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(concurrency) as pool:
        for future in [pool.submit(work) for _ in range(concurrency)]:
            future.result()
    return sorted(records, key=lambda record: record.number)


def _warmed(client: MutantClient, arguments: argparse.Namespace, pids: Callable[[], list[int]]) -> list[ProcessUse]:
    """What the processes take once other mutants have made them grow no more."""
    if arguments.generate:
        _send(client.generate, mutants(arguments.seed + 1), arguments.concurrency * 4, arguments.concurrency, "generate")
    before, steady = list[ProcessUse](), 0
    for number in range(1, WARM_UP_ROUNDS + 1):
        _send(client.validate, mutants(arguments.seed + number), WARM_UP, arguments.concurrency, "warm-up")
        now = settled(pids(), 2.0)
        steady = steady + 1 if _counted(now) <= _counted(before) * (1 + STEADY) else 0
        before = now
        print(f"warm-up: {_counted(now):.1f} MiB", file=sys.stderr, flush=True)
        if steady == 2:
            break
    return before


def _counted(uses: list[ProcessUse]) -> float:
    return sum(use.mib for use in uses if not use.worker)


@contextmanager
def _peak(pids: Callable[[], list[int]]) -> Iterator[list[float]]:
    """The most resident memory of all the server's processes together, sampled."""
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            peak[0] = max(peak[0], resident_mib(pids()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def _memory(before: list[ProcessUse], after: list[ProcessUse]) -> dict[str, Any]:
    """Each process at both times, and whether memory is back: together and each, the sandbox's workers aside."""
    now = {use.pid: use for use in after}
    first = {use.pid for use in before}
    kept = [(use, now[use.pid]) for use in before if use.pid in now]
    total = _counted(before), _counted(after)
    grown = [then.name for use, then in kept if not use.worker and then.mib - use.mib > max(SLACK_MIB, use.mib * GROWTH)]
    return {
        "within": total[1] <= total[0] * (1 + GROWTH) and not grown,
        "before_mib": round(total[0], 1),
        "after_mib": round(total[1], 1),
        "processes": [
            *({"name": use.name, "before_mib": round(use.mib, 1), "after_mib": round(then.mib, 1)} for use, then in kept),
            *({"name": use.name, "before_mib": round(use.mib, 1), "after_mib": None} for use in before if use.pid not in now),
            *({"name": use.name, "before_mib": None, "after_mib": round(use.mib, 1)} for use in after if use.pid not in first),
        ],
    }


def _print(records: list[Record], faults: list[Record], memory: dict[str, Any], seconds: float, ready: bool) -> None:
    outcomes = [
        "accepted",
        *(code for code in CODES if any(record.answer.outcome == code for record in records)),
        "triton",
        "none",
        "fault",
    ]
    rows = []
    for to, mutation in dict.fromkeys((record.to, record.mutation) for record in sorted(records, key=lambda one: (one.to, one.mutation))):
        counts = _counts([record for record in records if (record.to, record.mutation) == (to, mutation)])
        rows.append([f"{to}: {mutation}", counts.total(), *(counts[outcome] for outcome in outcomes)])
    for to in ("validate", "generate"):
        counts = _counts([record for record in records if record.to == to])
        rows.append([f"{to}: all", counts.total(), *(counts[outcome] for outcome in outcomes)])
    print_table(["", "sent", *outcomes], rows)
    print(f"\n{seconds:.0f} s; {len(faults)} faults; the server is {'ready' if ready else 'NOT READY'} at the end")
    for to, summary in _latencies(records).items():
        print(f"{to} ms: {summary}")
    for record in sorted(records, key=lambda one: -one.answer.seconds)[:8]:
        print(f"  slowest: {record.answer.seconds:6.2f} s {record.to} #{record.number} {record.mutation} -> {record.answer.outcome}")
    print(f"memory: {memory['before_mib']} MiB before, {memory['after_mib']} after, peak (resident) {memory['peak_resident_mib']}")
    for process in memory["processes"]:
        print(f"  {process['name']}: {process['before_mib']} -> {process['after_mib']}")
    print("memory is back" if memory["within"] else "MEMORY GREW")
    for record in faults[:40]:
        print(f"FAULT {record.to} #{record.number} {record.mutation}: {record.answer.fault}: {record.answer.text[:300]}")


def _counts(records: list[Record]) -> Counter[str]:
    return Counter("fault" if record.answer.fault else record.answer.outcome for record in records)


def _latencies(records: list[Record]) -> dict[str, dict[str, float]]:
    sent_to = dict.fromkeys(record.to for record in records)
    return {to: percentiles([record.answer.seconds for record in records if record.to == to], scale=1e3) for to in sent_to}


def _content(
    arguments: argparse.Namespace, records: list[Record], faults: list[Record], memory: dict[str, Any], seconds: float, ready: bool
) -> dict[str, Any]:
    def by(to: str) -> dict[str, dict[str, int]]:
        of = [record for record in records if record.to == to]
        return {name: dict(_counts([one for one in of if one.mutation == name])) for name in sorted({one.mutation for one in of})}

    return {
        "count": arguments.count,
        "seed": arguments.seed,
        "concurrency": arguments.concurrency,
        "seconds": round(seconds, 1),
        "ready_at_end": ready,
        "counts": {to: dict(_counts([record for record in records if record.to == to])) for to in ("validate", "generate")},
        "latency_ms": _latencies(records),
        "memory": memory,
        "by_mutation": {to: by(to) for to in ("validate", "generate")},
        "faults": [asdict(record) for record in faults],
    }


@contextmanager
def _server(arguments: argparse.Namespace) -> Iterator[tuple[str, str, TritonServer | None]]:
    if arguments.grpc:
        yield arguments.grpc, arguments.http, None
        return
    models = [] if arguments.generate else ["validate"]
    with serving(models, "mutations", environment=CACHE) as server:
        yield server.grpc_url, server.http_url, server


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--generate", type=int, default=300, help="how many of them go to generate too; 0 needs no engine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--grpc", help="host:port of a server that is up already; its memory is not looked at")
    parser.add_argument("--http", help="its HTTP host:port")
    parser.add_argument("--json", help="a file for the results")
    arguments = parser.parse_args()
    if bool(arguments.grpc) != bool(arguments.http):
        parser.error("--grpc and --http go together")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
