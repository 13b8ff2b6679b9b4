"""What the engine is running, by its own counters."""

from __future__ import annotations

import patient_http
from bench_server import work_of
from waiting import PATIENCE, eventually

from ananke_server.launch import TritonServer


def running(server: TritonServer) -> int:
    """Requests that the engine has, as Triton's metrics tell."""
    return int(_figures(server)[0])


def comes_to(server: TritonServer, count: int, seconds: float = PATIENCE) -> bool:
    """Whether it has this many, now or before the seconds are over; of none, whether its batch and its KV cache are empty too."""
    return eventually(lambda: not any(_figures(server)) if count == 0 else running(server) == count, seconds)


def _figures(server: TritonServer) -> list[float]:
    return work_of(patient_http.get(f"http://{server.metrics_url}/metrics").text)
