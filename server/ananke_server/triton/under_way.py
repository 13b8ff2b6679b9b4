"""Requests under way by their callers' names, so that a later command can cancel one or renew its lease.

Triton 2.51 does not tell a step of an ensemble that its client has gone; a command does.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ananke_client.errors import CancelledError, InvalidRequestError
from ananke_server.engine.request import GenerateRequest

MEMORY_SECONDS = 5.0
"""How long a cancel waits for its request, and a finished request's name is known."""
MOST_REMEMBERED = 4096
MOST_NAMES = 4096
"""Names in one command."""
LONGEST_NAME = 256


class Entry:
    """One request under way; ended once at most, by a command, by its lease, or since nobody takes its responses."""

    def __init__(self, end: Callable[[], object], lease: float | None) -> None:
        self.reason: str | None = None
        """Why it was ended, if it was."""
        self._end = end
        self._lease = lease
        self._timer: asyncio.TimerHandle | None = None
        self.renew()

    def cancel(self, reason: str) -> None:
        """End the request; does nothing the second time, which would break off the engine's own clearing up."""
        if self.reason is None:
            self.reason = reason
            self._end()

    def renew(self) -> None:
        """Let the lease begin anew."""
        self.close()
        if self._lease is not None:
            reason = f"its lease of {self._lease:g} s ran out"
            self._timer = asyncio.get_running_loop().call_later(self._lease, self.cancel, reason)

    def close(self) -> None:
        """Forget the lease."""
        if self._timer is not None:
            self._timer.cancel()


class UnderWay:
    """The requests under way, by request id and by attempt id; several may have one name. All belongs to one event loop.

    Where API keys are checked, a command reaches the requests of its own key alone: ids are told apart by the key's name.

    A cancel that finds nothing waits ``MEMORY_SECONDS`` for its request, unless a request of that name has just ended: then it
    was meant for that one, and must not end the next.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: defaultdict[str, set[Entry]] = defaultdict(set)
        self._early = _Memory(clock)
        self._ended = _Memory(clock)

    @contextmanager
    def entry(self, request: GenerateRequest, end: Callable[[], object]) -> Iterator[Entry]:
        """Have a request under way within the ``with`` block; ``end`` is called once at most.

        Raises:
            CancelledError: its cancel came before it.
        """
        ids = {name for name in (request.caller_id, request.attempt_id) if 0 < len(name) <= LONGEST_NAME}
        names = {_owned(name, request.key_name) for name in ids}
        early = [self._early.take(name) for name in names]
        if any(early):
            raise CancelledError("the caller cancelled the request before it came")
        entry = Entry(end, request.lease)
        for name in names:
            self._entries[name].add(entry)
        try:
            yield entry
        finally:
            entry.close()
            for name in names:
                self._leave(name, entry)

    def cancel(self, name: str, key_name: str = "") -> bool:
        """End every request of this name and API key, or the first that comes soon; returns whether one was under way.

        Raises:
            InvalidRequestError: no request can have this name.
        """
        entries = self._named(name, key_name)
        for entry in entries:
            entry.cancel("the caller cancelled the request")
        if not entries and (owned := _owned(name, key_name)) not in self._ended:
            self._early.add(owned)
        return bool(entries)

    def renew(self, name: str, key_name: str = "") -> bool:
        """Let the leases of this name's and API key's requests begin anew; returns whether one was under way.

        Raises:
            InvalidRequestError: no request can have this name.
        """
        entries = self._named(name, key_name)
        for entry in entries:
            entry.renew()
        return bool(entries)

    def _named(self, name: str, key_name: str) -> list[Entry]:
        if not 0 < len(name) <= LONGEST_NAME:
            raise InvalidRequestError(f"a request id or attempt id to be named has 1 to {LONGEST_NAME} characters, not {len(name)}")
        return list(self._entries.get(_owned(name, key_name), ()))

    def _leave(self, name: str, entry: Entry) -> None:
        entries = self._entries[name]
        entries.discard(entry)
        if not entries:
            del self._entries[name]
            self._ended.add(name)


def _owned(name: str, key_name: str) -> str:
    # No key's name has a line's end.
    return f"{key_name}\n{name}"


class _Memory:
    """Names for ``MEMORY_SECONDS`` each, the newest ``MOST_REMEMBERED`` of them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, name: str) -> bool:
        return self._until.get(name, 0.0) > self._clock()

    def add(self, name: str) -> None:
        now = self._clock()
        self._until.pop(name, None)
        self._until[name] = now + MEMORY_SECONDS
        while len(self._until) > MOST_REMEMBERED or next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)

    def take(self, name: str) -> bool:
        """Whether the name is known; from then on it is not."""
        return self._until.pop(name, 0.0) > self._clock()
