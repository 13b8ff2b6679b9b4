"""What the engine is running, by its own counters."""

from __future__ import annotations

import time

import httpx

from ananke_server.launch import TritonServer

FIGURES = ("ananke_requests_running", "ananke_engine_batch_requests", "ananke_kv_cache_usage_ratio")


def running(server: TritonServer) -> int:
    """Requests that the engine has, as Triton's metrics tell."""
    return int(_figures(server)[0])


def comes_to(server: TritonServer, count: int, seconds: float) -> bool:
    """Whether it has this many, now or before the seconds are over; of none, whether its batch and its KV cache are empty too."""
    end = time.monotonic() + seconds
    while any(_figures(server)) if count == 0 else running(server) != count:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _figures(server: TritonServer) -> list[float]:
    lines = httpx.get(f"http://{server.metrics_url}/metrics", trust_env=False).text.splitlines()
    return [next(float(line.split()[1]) for line in lines if line.startswith(name)) for name in FIGURES]
