"""Metrics of the ``validate`` model on Triton's metrics endpoint, summed over its instances."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from ananke_server.constraints.service import CompilerService
from ananke_server.triton.compile_metrics import COMPILE_FAMILIES, HITS, compile_totals
from ananke_server.triton.counters import Counters, Family, Key

REFUSALS = "ananke_constraint_refusals_total"
_REFUSED = "Constraints refused by validate, by the first error's code, and requests without an admitted API key"
RUNNING = "ananke_validations_running"
VALIDATE_FAMILIES = COMPILE_FAMILIES | {
    REFUSALS: Family(_REFUSED, labels=("code",)),
    RUNNING: Family("Requests in validate that are not answered yet: their constraints are compiled, or wait for it", "gauge"),
}


class ValidateMetrics:
    """Counts what ``validate`` answers; what its compiler does is counted there.

    Args:
        running: how many requests are not answered yet.
    """

    def __init__(self, compiler: CompilerService, running: Callable[[], int]) -> None:
        self._compiler = compiler
        self._running = running
        self._hits = 0
        self._refusals: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._counters = Counters(VALIDATE_FAMILIES, self._totals)

    def count_hit(self, refusal: str | None) -> None:
        """An answer was given again; the code of its refusal, if it is one."""
        with self._lock:
            self._hits += 1
            if refusal is not None:
                self._refusals[refusal] += 1

    def count_refusal(self, refusal: str | None) -> None:
        """An answer was given for the first time; the code of its refusal, if it is one."""
        if refusal is not None:
            with self._lock:
                self._refusals[refusal] += 1

    def close(self) -> None:
        """Stop reporting."""
        self._counters.close()

    def _totals(self) -> dict[Key, float]:
        totals = compile_totals(self._compiler) | {(RUNNING, ()): self._running()}
        with self._lock:
            totals[HITS, ()] += self._hits
            return totals | {(REFUSALS, (("code", code),)): count for code, count in self._refusals.items()}
