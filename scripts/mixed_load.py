"""A mixed load on a real server: good, bad, cancelled and huge requests at once, each of which has to end, and what the server takes.

    python scripts/mixed_load.py --minutes 15 --output benchmarks/mixed-load.json

Every output is judged by jsonschema, re, lark or comparison. Wrong is: an output that does not satisfy and is said to, one that
satisfies and is said not to, another error than the request asks for, and no end at all. The exit code is 0 where nothing is wrong
and neither memory nor file handles grow.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import psutil
from bench_server import serving, uses
from bench_support import percentiles, print_table, write_json
from mixed_clients import Answer, Clients
from mixed_requests import request

from ananke_server.launch import TritonServer

PATIENCE = 30.0
"""Seconds after the load within which nothing may run any more: longer than a lease."""
GROWTH = 1.05
"""Of the median of a fifth of the samples, over that of another, what still counts as flat."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What all of a server's processes take, so many seconds after the load began: MiB of memory (PSS), and open file handles.

    The handles are without those of the sandbox's workers, which come and go. ``by_program`` has the memory by program.
    """

    seconds: float
    mib: float
    handles: int
    processes: int
    by_program: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """A load's answers, what the server took meanwhile, and what it still ran, and said of wrong outputs of its own, at the end."""

    answers: Sequence[Answer]
    samples: Sequence[Sample]
    seconds: float
    left_running: int
    said_wrong: int

    @property
    def wrong(self) -> list[Answer]:
        return [answer for answer in self.answers if not answer.right]

    def fifths(self, name: str) -> tuple[float, float]:
        """The medians of a figure over the second and the last fifth of the time; the first warms up."""
        return _fifths([float(getattr(sample, name)) for sample in self.samples])

    def fifths_by_program(self) -> dict[str, tuple[float, float]]:
        """The same of each program's memory."""
        programs = sorted({program for sample in self.samples for program in sample.by_program})
        return {program: _fifths([sample.by_program.get(program, 0.0) for sample in self.samples]) for program in programs}

    def is_flat(self, name: str) -> bool:
        second, last = self.fifths(name)
        return last <= second * GROWTH


def _fifths(values: list[float]) -> tuple[float, float]:
    size = max(1, len(values) // 5)
    return statistics.median(values[size : 2 * size] or values), statistics.median(values[-size:])


async def run(server: TritonServer, *, seconds: float, concurrency: int, sample_seconds: float = 4.0) -> Outcome:
    """Send requests for so long, so many at once, and await the end of each."""
    numbers, answers, samples = itertools.count(), list[Answer](), list[Sample]()
    begun = time.monotonic()

    async def work() -> None:
        while time.monotonic() - begun < seconds:
            number = next(numbers)
            answers.append(await clients.answer(number, request(number)))

    async def watch() -> None:
        while True:
            samples.append(await asyncio.to_thread(sample, server, begun))
            await asyncio.sleep(sample_seconds)

    async with Clients(server.grpc_url, f"http://{server.http_url}", concurrency) as clients:
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(work() for _ in range(concurrency)))
        watching.cancel()
    took = time.monotonic() - begun
    end = time.monotonic() + PATIENCE
    while (left := count(server, "ananke_requests_running")) and time.monotonic() < end:
        await asyncio.sleep(0.2)
    return Outcome(answers, samples, took, left, count(server, "ananke_outputs_total", 'satisfied="false"'))


def sample(server: TritonServer, begun: float) -> Sample:
    """What the server's processes take now."""
    processes = uses(server.session.members())
    handles = 0
    for use in processes:
        if not use.worker and psutil.pid_exists(use.pid):
            handles += psutil.Process(use.pid).num_fds()
    by_program: defaultdict[str, float] = defaultdict(float)
    for use in processes:
        by_program["sandbox workers" if use.worker else use.name] += use.mib
    mib = round(sum(use.mib for use in processes), 1)
    return Sample(round(time.monotonic() - begun, 1), mib, handles, len(processes), dict(by_program))


def count(server: TritonServer, name: str, *labels: str) -> int:
    """The sum of a metric over all that have these labels."""
    lines = httpx.get(f"http://{server.metrics_url}/metrics", timeout=60, trust_env=False).text.splitlines()
    chosen = (line for line in lines if line.split("{")[0].split(" ")[0] == name and all(label in line for label in labels))
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in chosen))


def report(outcome: Outcome) -> dict[str, Any]:
    """What the JSON file has of it, printed as tables too."""
    ends: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    times: dict[str, list[float]] = defaultdict(list)
    for answer in outcome.answers:
        ends[answer.kind, answer.name][answer.end] += 1
        times[answer.kind].append(answer.seconds)
    rows = [[f"{kind}: {name}", found.total(), _shown(found)] for (kind, name), found in sorted(ends.items())]
    print_table(["request", "sent", "ended"], rows)
    fifths = ("second_fifth", "last_fifth")
    medians = {name: outcome.fifths(name) for name in ("mib", "handles", "processes")}
    medians |= {f"mib of {program}": both for program, both in outcome.fifths_by_program().items()}
    print_table(["the server's", "second fifth", "last fifth"], [[name, *both] for name, both in medians.items()])
    flat = {name: dict(zip(fifths, both, strict=True)) for name, both in medians.items()}
    for answer in outcome.wrong:
        print(f"WRONG {answer}")
    print(f"{len(outcome.answers)} requests in {outcome.seconds:.0f} s, {len(outcome.wrong)} wrong, {outcome.left_running} left running")
    return {
        "requests": len(outcome.answers),
        "seconds": round(outcome.seconds, 1),
        "wrong": [asdict(answer) for answer in outcome.wrong],
        "left_running": outcome.left_running,
        "outputs_that_the_server_itself_found_wrong": outcome.said_wrong,
        "by_client": dict(Counter(answer.client for answer in outcome.answers)),
        "answer_ms": {kind: percentiles(values, scale=1000) for kind, values in sorted(times.items())},
        "ends": [{"kind": kind, "name": name, "ends": dict(found)} for (kind, name), found in sorted(ends.items())],
        "flat": flat,
        "samples": {name: [getattr(each, name) for each in outcome.samples] for name in ("seconds", "mib", "handles", "processes")},
    }


def _shown(ends: Counter[str]) -> str:
    return ", ".join(f"{end} {number}" for end, number in ends.most_common())


def is_well(outcome: Outcome) -> bool:
    """Whether every request ended as it may, nothing runs any more, and what the server takes is flat."""
    return not (outcome.wrong or outcome.left_running or outcome.said_wrong) and outcome.is_flat("mib") and outcome.is_flat("handles")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--output", help="a JSON file")
    arguments = parser.parse_args()
    with serving([], "mixed-load") as server:
        outcome = asyncio.run(run(server, seconds=60 * arguments.minutes, concurrency=arguments.concurrency))
    content = report(outcome)
    if arguments.output:
        write_json(arguments.output, {"concurrency": arguments.concurrency, **content})
    return 0 if is_well(outcome) else 1


if __name__ == "__main__":
    raise SystemExit(main())
