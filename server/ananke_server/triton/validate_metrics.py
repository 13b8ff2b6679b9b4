"""Metrics of the ``validate`` model on Triton's metrics endpoint, summed over its instances."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import Any

import triton_python_backend_utils as pb_utils

from ananke_server.constraints.service import CompilerService

logger = logging.getLogger(__name__)

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
_SECONDS_BETWEEN_REPORTS = 1.0

Key = tuple[str, str | None]
"""A family's name, and the code that a refusal's metric is labelled with."""


class ValidateMetrics:
    """Counts here, and tells Triton once a second: each telling is a round trip to its process."""

    def __init__(self, compiler: CompilerService) -> None:
        self._compiler = compiler
        self._hits = 0
        self._refusals: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._families = {
            name: pb_utils.MetricFamily(name=name, description=description, kind=pb_utils.MetricFamily.COUNTER)
            for name, description in _FAMILIES.items()
        }
        self._metrics: dict[Key, Any] = {}
        self._told: dict[Key, float] = {}
        # So that each is there from the start, at zero.
        for name in _FAMILIES.keys() - {REFUSALS}:
            self._metric((name, None))
        self._closing = threading.Event()
        self._reporter = threading.Thread(target=self._report, name="ananke-metrics", daemon=True)
        self._reporter.start()

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
        self._closing.set()
        self._reporter.join()

    def _report(self) -> None:
        while not self._closing.wait(_SECONDS_BETWEEN_REPORTS):
            try:
                self._tell()
            except Exception:
                logger.exception("metrics could not be reported")

    def _tell(self) -> None:
        for key, value in self._values().items():
            if (more := value - self._told.get(key, 0)) > 0:
                self._metric(key).increment(more)
                self._told[key] = value

    def _values(self) -> dict[Key, float]:
        counts = self._compiler.counts
        with self._lock:
            refusals: dict[Key, float] = {(REFUSALS, code): count for code, count in self._refusals.items()}
            hits = self._hits
        return refusals | {
            ("ananke_compile_cache_hits_total", None): hits + counts.hits,
            ("ananke_compile_cache_misses_total", None): counts.misses,
            ("ananke_compile_cache_coalesced_total", None): counts.coalesced,
            ("ananke_compile_cache_evictions_total", None): counts.evictions,
            ("ananke_compile_seconds_total", None): counts.compile_seconds,
            ("ananke_sandbox_kills_total", None): self._compiler.killed,
        }

    def _metric(self, key: Key) -> Any:
        if key not in self._metrics:
            name, code = key
            self._metrics[key] = self._families[name].Metric(labels={} if code is None else {"code": code})
        return self._metrics[key]
