"""A lane: a few places, and a bounded queue before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class LaneFullError(Exception):
    """The queue is full."""


class Lane:
    """Places for compilations that run side by side; first come, first served."""

    def __init__(self, places: int, queue: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._queue = queue
        self._waiting = 0

    @property
    def free(self) -> bool:
        """Whether a place can be had without waiting."""
        return not self._places.locked()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place, once there is one.

        Raises:
            LaneFullError: the queue is full.
        """
        if not self.free and self._waiting >= self._queue:
            raise LaneFullError
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()
