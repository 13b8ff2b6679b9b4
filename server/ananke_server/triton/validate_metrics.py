"""Metrics of the ``validate`` model on Triton's metrics endpoint, summed over its instances."""

from __future__ import annotations

import threading
from collections import Counter

from ananke_server.constraints.service import CompilerService
from ananke_server.triton.counters import Counters, Key

REFUSALS = "ananke_constraint_refusals_total"
_FAMILIES = {
    "ananke_compile_cache_hits_total": "Constraints answered from the cache of compiled constraints",
    "ananke_compile_cache_misses_total": "Constraints that had to be compiled",
    "ananke_compile_cache_coalesced_total": "Constraints that waited for another request's compilation of the same",
    "ananke_compile_cache_evictions_total": "Compiled constraints that the cache had no more room for",
    "ananke_compile_seconds_total": "Seconds that compilations took, waiting for the sandbox included",
    "ananke_sandbox_kills_total": "Compilations ended by the sandbox, since they took too much time or memory or crashed",
    REFUSALS: "Constraints refused, by the first error's code",
}


class ValidateMetrics:
    """Counts what ``validate`` answers; what its compiler does is counted there."""

    def __init__(self, compiler: CompilerService) -> None:
        self._compiler = compiler
        self._hits = 0
        self._refusals: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._counters = Counters(_FAMILIES, [(name, ()) for name in _FAMILIES if name != REFUSALS], self._totals)

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
        counts = self._compiler.counts
        with self._lock:
            refusals: dict[Key, float] = {(REFUSALS, (("code", code),)): count for code, count in self._refusals.items()}
            hits = self._hits
        return refusals | {
            ("ananke_compile_cache_hits_total", ()): hits + counts.hits,
            ("ananke_compile_cache_misses_total", ()): counts.misses,
            ("ananke_compile_cache_coalesced_total", ()): counts.coalesced,
            ("ananke_compile_cache_evictions_total", ()): counts.evictions,
            ("ananke_compile_seconds_total", ()): counts.compile_seconds,
            ("ananke_sandbox_kills_total", ()): self._compiler.killed,
        }
