"""Deadlines: how much of a timeout is left."""

from __future__ import annotations

import time

from ananke_client.errors import DeadlineExceededError


class Deadline:
    """A moment of the monotonic clock, so many seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left; less than 0 afterwards."""
        return self._end - time.monotonic()

    def remaining(self) -> float:
        """Seconds left.

        Raises:
            DeadlineExceededError: none is.
        """
        if (left := self.left()) <= 0:
            raise DeadlineExceededError("the timeout passed")
        return left
