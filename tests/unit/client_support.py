"""What tests of the clients share: a close that wakes who reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from waiting import SOON

from ananke_client import CancelledError


def assert_close_wakes(stream: Iterator[str], close: Callable[[], object]) -> None:
    """Who reads a stream that says nothing is told as soon as it, or its client, is closed beside."""
    closing = threading.Timer(0.2, close)
    closing.start()
    begun = time.monotonic()
    with pytest.raises(CancelledError):
        next(stream)
    assert time.monotonic() - begun < SOON
    closing.join()
