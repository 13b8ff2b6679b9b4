"""Metrics on Triton's metrics endpoint, told to it every 0.2 s alone, since each telling is a round trip to its process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import triton_python_backend_utils as pb_utils

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_REPORTS = 0.2

Labels = tuple[tuple[str, str], ...]
"""Names and values of a metric's labels."""
Key = tuple[str, Labels]
"""A family's name, and the labels of one of its metrics."""


@dataclass(frozen=True, slots=True)
class Family:
    """What is exported under one name. A histogram has ``buckets``: their upper bounds, ascending."""

    description: str
    kind: Literal["counter", "gauge", "histogram"] = "counter"
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


class Counters:
    """Reports totals and observations from a thread of its own; the totals of counters only grow.

    Args:
        families: by name. Those without labels are there from the start.
        totals: gives every counter's and gauge's value as it stands now; called from the reporting thread.
        observations: gives what histograms have to be told since it was asked last; called from there too.
        at_zero: the metrics with labels that are there from the start.
    """

    def __init__(
        self,
        families: Mapping[str, Family],
        totals: Callable[[], Mapping[Key, float]],
        observations: Callable[[], Iterable[tuple[Key, float]]] = tuple,
        *,
        at_zero: Iterable[Key] = (),
    ) -> None:
        self._buckets = {name: list(family.buckets) for name, family in families.items() if family.kind == "histogram"}
        self._families = {
            name: pb_utils.MetricFamily(
                name=name, description=family.description, kind=getattr(pb_utils.MetricFamily, family.kind.upper())
            )
            for name, family in families.items()
        }
        self._totals = totals
        self._observations = observations
        self._metrics: dict[Key, Any] = {}
        self._told: dict[Key, float] = {}
        for key in [*((name, ()) for name, family in families.items() if not family.labels), *at_zero]:
            self._metric(key)
        self._closing = threading.Event()
        self._reporter = threading.Thread(target=self._report, name="ananke-metrics", daemon=True)
        self._reporter.start()

    def close(self) -> None:
        """Stop reporting, and let go of Triton's metrics: a stub process that still has some when its interpreter ends crashes."""
        self._closing.set()
        self._reporter.join()
        self._metrics.clear()
        self._families.clear()

    def _report(self) -> None:
        while not self._closing.wait(_SECONDS_BETWEEN_REPORTS):
            try:
                self._tell()
            except Exception:
                logger.exception("metrics could not be reported")

    def _tell(self) -> None:
        for key, total in self._totals().items():
            if more := total - self._told.get(key, 0):
                self._metric(key).increment(more)
                self._told[key] = total
        for key, value in self._observations():
            self._metric(key).observe(value)

    def _metric(self, key: Key) -> Any:
        if key not in self._metrics:
            name, labels = key
            buckets = self._buckets.get(name)
            arguments = {} if buckets is None else {"buckets": buckets}
            self._metrics[key] = self._families[name].Metric(labels=dict(labels), **arguments)
        return self._metrics[key]
