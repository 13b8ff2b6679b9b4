"""What the engine is running, by its own counters, and a request that it runs for as long as a test needs one."""

from __future__ import annotations

from bench_server import work_of
from server_metrics import metrics_text
from waiting import PATIENCE, eventually

from ananke_client import ConstraintSpec, GenerationConfig
from ananke_server.launch import TritonServer

LONG, LONG_CONFIG = ConstraintSpec.regex("[0-9]{7000}"), GenerationConfig(max_tokens=7100)
"""A digit is a token, so that even a fast machine takes longer than a test waits for anything."""


def running(server: TritonServer) -> int:
    """Requests that the engine has, as Triton's metrics tell."""
    return int(_figures(server)[0])


def comes_to(server: TritonServer, count: int, seconds: float = PATIENCE) -> bool:
    """Whether it has this many, now or before the seconds are over; of none, whether its batch and its KV cache are empty too."""
    return eventually(lambda: not any(_figures(server)) if count == 0 else running(server) == count, seconds)


def _figures(server: TritonServer) -> list[float]:
    return work_of(metrics_text(server))
