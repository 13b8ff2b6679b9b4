"""The waiting room: requests that wait, for whatever it is, and which of them gives way where there are too many.

Where the whole queue is full a request of the client that has the most in it gives way, its newest, to one of a client that has
fewer (longest queue drop: B. Suter et al., "Design considerations for supporting TCP with per-flow queueing", INFOCOM 1998).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from ananke_client.errors import OverloadedError

_MEMORY: Final = 0.9
"""What the average time between two whose wait is over keeps of itself at each."""
SHORTEST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 60.0


class WaitingRoom:
    """Belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stays: dict[str, dict[Stay, None]] = {}
        """By client, in the order of their arrival."""
        self._last_left = clock()
        self._interval = 0.0

    def __len__(self) -> int:
        """Requests that wait; may be read from any thread."""
        return sum(map(len, list(self._stays.values())))

    def stay(self, client: str) -> Stay:
        """A request's stay, from here to ``Stay.over`` or the end of its ``async with`` block, which is that of its task."""
        return Stay(self, client)

    def make_room(self, client: str) -> None:
        """Let a request give way to one more of this client.

        Raises:
            OverloadedError: no other client has more requests waiting than this one; the message says when to try again.
        """
        longest = max(self._stays, key=lambda other: len(self._stays[other]), default=client)
        if longest == client or len(self._stays[longest]) <= len(self._stays.get(client, ())) + 1:
            raise self._overloaded("too many requests are pending")
        newest = next(reversed(self._stays[longest]))
        self._remove(newest)
        newest.give_way(self._overloaded("the queue is full, and other clients have fewer requests in it"))

    def _add(self, stay: Stay) -> None:
        if not self._stays:
            self._last_left = self._clock()
        self._stays.setdefault(stay.client, {})[stay] = None

    def _remove(self, stay: Stay) -> bool:
        stays = self._stays.get(stay.client, {})
        if stay not in stays:
            return False
        del stays[stay]
        if not stays:
            del self._stays[stay.client]
        return True

    def _leave(self, stay: Stay) -> None:
        if self._remove(stay):
            now = self._clock()
            if self._stays:
                interval = now - self._last_left
                self._interval = _MEMORY * self._interval + (1 - _MEMORY) * interval if self._interval else interval
            self._last_left = now

    def _overloaded(self, reason: str) -> OverloadedError:
        interval = max(self._interval, self._clock() - self._last_left)
        wait = min(LONGEST_WAIT, max(SHORTEST_WAIT, interval * (len(self) + 1)))
        return OverloadedError(f"{reason}; try again in {wait:.1f} s")


class Stay:
    """One request's time in the room. Where it gives way its task is cancelled, which its block makes an ``OverloadedError`` of."""

    def __init__(self, room: WaitingRoom, client: str) -> None:
        self.client = client
        self._room = room
        self._overload: OverloadedError | None = None

    def over(self) -> None:
        """The request has what it waited for, and gives way to none any more."""
        self._room._leave(self)

    def give_way(self, overload: OverloadedError) -> None:
        """End the request with this error."""
        self._overload = overload
        self._task.cancel()

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        self._room._add(self)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, fault: BaseException | None, _: TracebackType | None) -> None:
        self._room._remove(self)
        # As in asyncio.Timeout: whoever cancelled the task too has precedence.
        if self._overload is not None and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise self._overload from fault
