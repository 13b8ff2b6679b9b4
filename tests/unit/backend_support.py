"""Stands in for Triton's Python backend, whose module exists in its stub processes alone; import it before ``ananke_server.triton``."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

FINAL = 1


class Tensor:
    def __init__(self, name: str, values: np.ndarray[Any, Any]) -> None:
        self.name, self.value = name, values[0]


@dataclass
class InferenceResponse:
    output_tensors: list[Tensor] = field(default_factory=list)
    error: Any = None

    def __getitem__(self, name: str) -> Any:
        return next((tensor.value for tensor in self.output_tensors if tensor.name == name), None)


class TritonError(Exception):
    INVALID_ARG, UNAVAILABLE, CANCELLED, INTERNAL = range(4)


class Metric:
    def __init__(self, labels: dict[str, str], buckets: list[float] | None) -> None:
        self.labels, self.buckets, self.total = labels, buckets, 0.0
        self.observed: list[float] = []

    def increment(self, more: float) -> None:
        assert self.buckets is None, "a histogram observes"
        self.total += more

    def observe(self, value: float) -> None:
        assert self.buckets is not None, "only a histogram observes"
        self.observed.append(value)


class MetricFamily:
    COUNTER, GAUGE, HISTOGRAM = range(3)

    def __init__(self, name: str, description: str, kind: int) -> None:
        self.kind = kind
        self.metrics: list[Metric] = []

    def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> Metric:
        assert (buckets is not None) == (self.kind == self.HISTOGRAM)
        self.metrics.append(Metric(labels, buckets))
        return self.metrics[-1]


_module = ModuleType("triton_python_backend_utils")
vars(_module).update({kind.__name__: kind for kind in (Tensor, InferenceResponse, TritonError, MetricFamily)})
vars(_module)["TRITONSERVER_RESPONSE_COMPLETE_FINAL"] = FINAL
sys.modules.setdefault("triton_python_backend_utils", _module)


@dataclass
class Sender:
    """A response sender as Triton's: refuses everything after the final response, and is not to be asked then."""

    before: Callable[[int], None] = lambda number: None
    """Called with the number of the response that is about to be taken: to be slow, or to fail."""
    cancelled: bool = False
    taken: list[InferenceResponse] = field(default_factory=list)
    final: threading.Event = field(default_factory=threading.Event)
    freed: bool = False
    asked_when_freed: bool = False
    asked: int = 0

    def send(self, response: InferenceResponse, flags: int = 0) -> None:
        assert not self.freed, "a response after the final one"
        if flags == FINAL:
            self.freed = True
        try:
            self.before(len(self.taken))
            self.taken.append(response)
        finally:
            if flags == FINAL:
                self.final.set()

    def is_cancelled(self) -> bool:
        self.asked += 1
        self.asked_when_freed |= self.freed
        time.sleep(1e-4)
        self.asked_when_freed |= self.freed
        return self.cancelled

    @property
    def text(self) -> str:
        return "".join((response["text_output"] or b"").decode() for response in self.taken)

    @property
    def tokens(self) -> int:
        return sum(int(response["num_output_tokens"] or 0) for response in self.taken)
