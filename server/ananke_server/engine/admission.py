"""Admission: which requests are in the engine, and who of those that wait is next.

Each client's requests wait in a line of their own. A place that becomes free goes to the client that has the fewest in the
engine, and among equals to the one whose last turn is longest ago (max-min fairness): a flood of one client delays
another's single request by one place's time, not by the flood's. Where the whole queue is full, a request of the longest
line gives way, its newest, to one of a shorter line (longest queue drop: B. Suter et al., "Design considerations for
supporting TCP with per-flow queueing", INFOCOM 1998).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from ananke_client.errors import OverloadedError

_MEMORY: Final = 0.9
"""What the average time between two free places keeps of itself at each."""
SHORTEST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 60.0


class Admission:
    """Places in the engine. Belongs to one event loop.

    Args:
        places: requests that may be in the engine at once.
    """

    def __init__(self, places: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._places = places
        self._clock = clock
        self._inside: Counter[str] = Counter()
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}
        self._returning: set[asyncio.Future[None]] = set()
        self._turns: dict[str, int] = {}
        """When each client that has requests here was last given a place, counted in places."""
        self._given = 0
        self._last_free = clock()
        self._interval = 0.0

    @property
    def waiting(self) -> int:
        """Requests that wait for a place; may be read from any thread."""
        return sum(map(len, list(self._lines.values())))

    @asynccontextmanager
    async def place(self, client: str, *, again: bool = False) -> AsyncIterator[None]:
        """A place in the engine within the block; waits for it without a bound of its own.

        Args:
            again: the request was in the engine before; it waits at the head of its client's line, and gives way to none.

        Raises:
            OverloadedError: it gave way to another client's request.
        """
        if self._inside.total() < self._places:
            self._give(client)
        else:
            await self._wait(client, again)
        try:
            yield
        finally:
            self._leave(client)

    def make_room(self, client: str) -> None:
        """Let a request give way to one more of this client.

        Raises:
            OverloadedError: no other client has more requests waiting than this one; the message says when to try again.
        """
        self._forget_cancelled()
        longest = max(self._lines, key=lambda other: len(self._lines[other]), default=client)
        if longest == client or len(self._lines[longest]) <= len(self._lines.get(client, ())) + 1:
            raise self._overloaded("too many requests are pending")
        newest = next((turn for turn in reversed(self._lines[longest]) if turn not in self._returning), None)
        if newest is None:
            raise self._overloaded("too many requests are pending")
        newest.set_exception(self._overloaded("the queue is full, and other clients have fewer requests in it"))
        self._drop(longest, newest)

    async def _wait(self, client: str, again: bool) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = self._lines.setdefault(client, deque())
        if again:
            line.appendleft(turn)
            self._returning.add(turn)
        else:
            line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._leave(client)  # the place came in the same moment
            else:
                self._drop(client, turn)
            raise

    def _leave(self, client: str) -> None:
        now = self._clock()
        if self._lines:
            self._interval = _MEMORY * self._interval + (1 - _MEMORY) * (now - self._last_free)
        self._last_free = now
        self._inside[client] -= 1
        self._forget_cancelled()
        if self._lines:
            following = min(self._lines, key=lambda waiting: (self._inside[waiting], self._turns.get(waiting, 0)))
            turn = self._lines[following][0]
            self._give(following)
            self._drop(following, turn)
            turn.set_result(None)
        self._forget(client)

    def _forget_cancelled(self) -> None:
        """Let go of those whose task was cancelled in this same moment and has not run since."""
        for client, line in list(self._lines.items()):
            for turn in [turn for turn in line if turn.done()]:
                self._drop(client, turn)

    def _give(self, client: str) -> None:
        self._given += 1
        self._inside[client] += 1
        self._turns[client] = self._given

    def _drop(self, client: str, turn: asyncio.Future[None]) -> None:
        self._returning.discard(turn)
        if turn in (line := self._lines.get(client, deque())):
            line.remove(turn)
            if not line:
                del self._lines[client]
                self._forget(client)

    def _forget(self, client: str) -> None:
        if not self._inside[client] and client not in self._lines:
            self._inside.pop(client, None)
            self._turns.pop(client, None)

    def _overloaded(self, reason: str) -> OverloadedError:
        wait = min(LONGEST_WAIT, max(SHORTEST_WAIT, self._interval * (self.waiting + 1)))
        return OverloadedError(f"{reason}; try again in {wait:.1f} s")
