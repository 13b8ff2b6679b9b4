"""What tests of the clients share: waiting for what happens beside them, and a close that wakes who reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ananke_client import CancelledError


def wait_until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Return once it holds; fail where it does not within the seconds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def assert_close_wakes(stream: Iterator[str], close: Callable[[], object]) -> None:
    """Who reads a stream that says nothing is told as soon as it, or its client, is closed beside."""
    closing = threading.Timer(0.2, close)
    closing.start()
    begun = time.monotonic()
    with pytest.raises(CancelledError):
        next(stream)
    assert time.monotonic() - begun < 5
    closing.join()
