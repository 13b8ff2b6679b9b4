"""A lane: a few places, and a bounded queue before them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ananke_server.fairness.admission import Admission
from ananke_server.fairness.waiting_room import WaitingRoom


class Lane:
    """Places for what runs side by side, in fair shares among clients. Belongs to one event loop.

    Args:
        places: of those that run.
        queue: of those that may wait for a place.
    """

    def __init__(self, places: int, queue: int) -> None:
        self._admission = Admission(places)
        self._room = WaitingRoom()
        self._queue = queue

    @property
    def free(self) -> bool:
        """Whether a place can be had without waiting."""
        return self._admission.free

    @asynccontextmanager
    async def place(self, client: str) -> AsyncIterator[None]:
        """Hold a place, once there is one.

        Raises:
            OverloadedError: the queue is full, and no client has more in it than this one; or this had to give way to another's.
        """
        if not self.free and len(self._room) >= self._queue:
            self._room.make_room(client)
        async with self._room.stay(client) as stay, self._admission.place(client):
            stay.over()
            yield
