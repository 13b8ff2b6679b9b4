"""Leases: what ends a generation on the server when the client's process is gone."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from ananke_client.commands import Commands
from ananke_client.deadline import Deadline
from ananke_client.request import LEASE
from ananke_client.transport import Pause, Responses

_RENEWALS = 5
"""In the time of a lease, so that it outlives some that fail, and a process that stands still for a while."""


class Leased(Protocol):
    """A call that may have a try under way, under a lease."""

    @property
    def attempt_id(self) -> str | None: ...


class Background(Protocol):
    """The part of a transport that works beside the calls."""

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None: ...

    def pause(self) -> Pause: ...


class LeaseKeeper:
    """Renews the leases of all calls some times a lease, and ends the streams that were dropped open.

    Works in one thread or task, which ends when there are none; calls that are shorter than the time between two renewals cost none.
    """

    def __init__(self, background: Background, commands: Commands) -> None:
        self._background = background
        self._commands = commands
        self._pause = background.pause()
        self._calls: weakref.WeakSet[Leased] = weakref.WeakSet()
        self._dropped: deque[tuple[str, Responses | None]] = deque()
        self._lock = threading.Lock()
        self._running = self._closed = False

    def keep(self, call: Leased) -> None:
        """Renew this call's lease as long as it has a try under way and somebody holds it."""
        with self._lock:
            self._calls.add(call)
            running, self._running = self._running, True
        if not running:
            self._background.spawn(self._run)

    def drop(self, attempt_id: str, responses: Responses | None) -> None:
        """Have a try ended whose call nobody holds any more. May be called wherever Python collects garbage, so it ends nothing itself."""
        self._dropped.append((attempt_id, responses))

    async def close(self) -> list[str]:
        """Renews nothing any more; returns the attempt ids of what was dropped and is now ended on this side. Raises: never."""
        self._closed = True
        self._pause.end()
        return await self._leave_dropped()

    async def _leave_dropped(self) -> list[str]:
        names = []
        with contextlib.suppress(IndexError):  # another thread may take the last one
            while self._dropped:
                name, responses = self._dropped.popleft()
                if responses is not None:
                    await responses.close()
                names.append(name)
        return names

    async def _run(self) -> None:
        due = Deadline(LEASE / _RENEWALS)
        try:
            while True:
                await self._pause.wait(max(0.0, due.left()))
                due = Deadline(LEASE / _RENEWALS)  # a renewal that nobody answers takes as long, and leaves time for others
                names = self._names()
                # What is dropped from here on is among the names, so that there is a next round.
                if self._closed:
                    return
                dropped = await self._leave_dropped()
                await self._commands.try_all("renew", names, patience=LEASE / _RENEWALS)
                await self._commands.try_all("cancel", dropped)
                if not names:
                    return
        except BaseException:
            with self._lock:
                self._running = False
            raise

    def _names(self) -> list[str]:
        """The tries under way; without any, the work counts as ended within the same lock, so that none is missed."""
        with self._lock:
            names = [name for call in self._calls if (name := call.attempt_id) is not None]
            self._running = bool(names)
            return names
