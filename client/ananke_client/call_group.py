"""Call groups: generation calls that end together."""

from __future__ import annotations

import threading
import weakref

from ananke_client.errors import CancelledError
from ananke_client.generation_call import GenerationCall


class CallGroup:
    """The calls of one owner, by its name: a client, or one of its batches. Holds none that nobody else holds."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._calls: weakref.WeakSet[GenerationCall] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._closed = False

    def add(self, call: GenerationCall) -> None:
        """Have a call end with the others.

        Raises:
            CancelledError: they have ended.
        """
        with self._lock:
            self.check_open()
            self._calls.add(call)

    def check_open(self) -> None:
        """Does nothing, unless the calls have ended.

        Raises:
            CancelledError: they have.
        """
        if self._closed:
            raise CancelledError(f"{self._owner} is closed")

    async def leave(self) -> list[str]:
        """Ends all calls on this side; returns the attempt ids that the server may be at work on. Raises: never."""
        with self._lock:
            self._closed = True
            calls = list(self._calls)
        return [name for call in calls for name in await call.leave(self._owner)]
