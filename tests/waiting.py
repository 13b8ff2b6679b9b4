"""Waiting for what happens beside a test. A machine with other work may stand still for seconds, so that nothing here is in a hurry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE = 60.0
"""Seconds within which everything that is to happen has happened."""
SOON = 20.0
"""Seconds that bound what takes much less than one; what the test is there to tell from it takes far longer."""
TOLD_SECONDS = 30.0
"""Seconds that bound what a client is told at once; it takes milliseconds, and on a machine with other work took 16 s."""


def eventually(holds: Callable[[], object], seconds: float = PATIENCE, every: float = 0.02) -> bool:
    """Whether it holds before the seconds are over."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True


def wait_until(holds: Callable[[], object], seconds: float = PATIENCE, every: float = 0.02) -> None:
    """Return once it holds; fail where it does not within the seconds."""
    assert eventually(holds, seconds, every), f"not within {seconds} s"


async def until(holds: Callable[[], object], seconds: float = PATIENCE, every: float = 0.005) -> None:
    """As ``wait_until``, in an event loop."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s"
        await asyncio.sleep(every)
