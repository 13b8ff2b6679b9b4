"""`make bench` against real servers, its figures within bounds that only something broken exceeds, on two busy cores too."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from ananke_server.launch import PROJECT, TritonServer

SMALL = ["--requests", "2", "--concurrency", "2", "--max-tokens", "8", "--json"]


def bench(*options: str, seconds: float) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, PROJECT / "scripts" / "bench.py", *SMALL, *options], capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def within_bounds(figures: dict[str, Any]) -> None:
    for load in (figures["unconstrained"], figures["constrained"]):
        assert (load["answered"], load["failed"]) == (2, 0)
        assert 0 < load["first_token_ms"][1] < 20_000
        assert 0 < load["per_token_ms"][1] < 5_000


def test_a_server_that_runs_is_only_loaded(server: TritonServer) -> None:
    figures = bench("--server", server.grpc_url, seconds=120)
    assert figures["cold_start"] is None
    within_bounds(figures)


@pytest.mark.timeout(600)
def test_a_cold_start_is_timed() -> None:
    figures = bench(seconds=580)
    start = figures["cold_start"]
    assert 1 < start["ready_seconds"] < 500
    assert start["ready_seconds"] < start["first_token_seconds"] < start["ready_seconds"] + 60
    within_bounds(figures)
