"""Counters and gauges on Triton's metrics endpoint, told to it every 0.2 s alone, since each telling is a round trip to its process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_REPORTS = 0.2

Labels = tuple[tuple[str, str], ...]
"""Names and values of a metric's labels."""
Key = tuple[str, Labels]
"""A family's name, and the labels of one of its metrics."""


class Counters:
    """Reports totals from a thread of its own; those of counters only grow.

    Args:
        families: each family's name and description.
        at_zero: the metrics that are there from the start.
        gauges: names of the families that are no counters.
        totals: gives every metric's total as it stands now; called from the reporting thread.
    """

    def __init__(
        self,
        families: Mapping[str, str],
        at_zero: Iterable[Key],
        totals: Callable[[], Mapping[Key, float]],
        *,
        gauges: Collection[str] = (),
    ) -> None:
        kinds = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        self._families = {
            name: pb_utils.MetricFamily(name=name, description=description, kind=kinds[name in gauges])
            for name, description in families.items()
        }
        self._totals = totals
        self._metrics: dict[Key, Any] = {}
        self._told: dict[Key, float] = {}
        for key in at_zero:
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

    def _metric(self, key: Key) -> Any:
        if key not in self._metrics:
            name, labels = key
            self._metrics[key] = self._families[name].Metric(labels=dict(labels))
        return self._metrics[key]
