"""Stage times: where the time of the engine's thread goes in a masked step, kept where an environment variable asks for it."""

from __future__ import annotations

import os
import time
from collections import defaultdict, deque

import numpy as np
from numpy.typing import NDArray

STAGE_TIMES_VARIABLE = "ANANKE_STAGE_TIMES"
"""The environment variable that turns stage times on in the workers; any text will do."""

KEPT = 50_000


class StageTimes:
    """The times of steps' stages since they were last taken, the newest ``KEPT`` of each. Off, a call costs some 30 ns."""

    def __init__(self, *, on: bool) -> None:
        self._on = on
        self._stages: dict[str, deque[int]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._last = 0

    @classmethod
    def from_environment(cls) -> StageTimes:
        """On where the environment says so."""
        return cls(on=bool(os.environ.get(STAGE_TIMES_VARIABLE)))

    def begin(self) -> None:
        """Start the first stage of a step."""
        if self._on:
            self._last = time.perf_counter_ns()

    def lap(self, stage: str) -> None:
        """End a stage, and start the next."""
        if self._on:
            now = time.perf_counter_ns()
            self._stages[stage].append(now - self._last)
            self._last = now

    def take(self) -> dict[str, dict[str, float]]:
        """For each stage the count, and in microseconds the sum, mean, median and 99th percentile; all are cleared."""
        summary = {stage: _summary(np.asarray(times) / 1e3) for stage, times in self._stages.items()}
        self._stages.clear()
        return summary


def _summary(times: NDArray[np.float64]) -> dict[str, float]:
    p50, p99 = np.percentile(times, [50, 99])
    values = {"count": len(times), "sum_us": times.sum(), "mean_us": times.mean(), "p50_us": p50, "p99_us": p99}
    return {name: round(float(value), 1) for name, value in values.items()}
