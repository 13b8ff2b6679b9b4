"""What the engine is running, by its own counter."""

from __future__ import annotations

import time

import httpx

from ananke_server.launch import TritonServer


def running(server: TritonServer) -> int:
    """Requests that the engine has, as Triton's metrics tell."""
    lines = httpx.get(f"http://{server.metrics_url}/metrics", trust_env=False).text.splitlines()
    return next(int(float(line.split()[1])) for line in lines if line.startswith("ananke_requests_running"))


def comes_to(server: TritonServer, count: int, seconds: float) -> bool:
    """Whether it has this many, now or before the seconds are over."""
    end = time.monotonic() + seconds
    while running(server) != count:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
