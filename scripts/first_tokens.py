"""First tokens under constraints that nobody has asked for yet, and under the same once more: one request at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from bench_support import fault_text, percentiles, print_table
from engine_rounds import UNCONSTRAINED, Bench
from engine_workloads import Job

WARM_UPS: Final = 3
"""Schemas that do not count: the first ones find every process cold."""
TOKENS: Final = 2

FirstTokens = dict[str, dict[str, float]]


async def first_tokens(
    bench: Bench, jobs: Sequence[Job], backends: Sequence[str], left: Callable[[], float], note: Callable[[str], None]
) -> FirstTokens:
    """Milliseconds to the first token under each schema: of an unconstrained request, and by each backend at first and again.

    The schemas are compiled already, as ``validate`` hands them over; ours are then made into matchers, vLLM's backends compile them.
    Tokens are sampled. ``over_ms`` is the mean difference to the unconstrained request before it.

    Args:
        jobs: each under a schema of its own; the first ``WARM_UPS`` are not measured.
        left: the seconds that are left; schemas that these are too few for are left out.
        note: told of schemas that were left out because a request failed.
    """
    times: dict[str, list[float]] = defaultdict(list)
    for number, job in enumerate(jobs):
        if left() < 1:
            break
        try:
            once = await _under(bench, job, backends, left)
        except Exception as fault:
            note(f"first tokens, schema {number}: {fault_text(fault)}")
            continue
        if number >= WARM_UPS:
            for name, seconds in once.items():
                times[name].append(seconds)
    return _summary(times)


async def _under(bench: Bench, job: Job, backends: Sequence[str], left: Callable[[], float]) -> dict[str, float]:
    """Seconds to each request's first token under one schema."""
    once = {}
    for name, variant in _requests(backends):
        [stream] = (await bench.round(variant, [replace(job, trace=None)], 1, left(), tokens=TOKENS)).streams
        once[name] = stream.first_token
    return once


def _requests(backends: Sequence[str]) -> list[tuple[str, str]]:
    """What is sent under one schema, in this order: names and variants."""
    return [(UNCONSTRAINED, UNCONSTRAINED), *((f"{backend}, {when}", backend) for backend in backends for when in ("new", "seen"))]


def _summary(times: dict[str, list[float]]) -> FirstTokens:
    return {
        name: {"schemas": len(seconds)}
        | percentiles(seconds, scale=1e3)
        | {"over_ms": round(1e3 * float(np.mean(np.subtract(seconds, times[UNCONSTRAINED]))), 3)}
        for name, seconds in times.items()
    }


def print_first_tokens(measured: FirstTokens) -> None:
    """A table of them."""
    columns = ("schemas", "mean", "p50", "p99", "max", "over_ms")
    rows: list[list[Any]] = [[name, *(of[column] for column in columns)] for name, of in measured.items()]
    print_table(["first token, ms", *columns[:-1], "over unconstrained"], rows)
