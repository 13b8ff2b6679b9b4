"""Admission: which requests have one of some places, as in the engine, and who of those that wait is next.

Each client's requests wait in a line of their own. A place that becomes free goes to the client that has the fewest, and among
equals to the one whose last turn is longest ago (max-min fairness): a flood of one client delays another's single request
by one place's time, not by the flood's.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Admission:
    """Places, in fair shares. Belongs to one event loop.

    Args:
        places: requests that may have one at once.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self.returning = 0
        """Requests that wait and had a place before; may be read from any thread."""
        self._inside: Counter[str] = Counter()
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}
        self._turns: dict[str, int] = {}
        """When each client that has requests here was last given a place, counted in places."""
        self._given = 0

    @property
    def free(self) -> bool:
        """Whether a place can be had without waiting."""
        return self._inside.total() < self._places

    @property
    def waiting(self) -> int:
        """Requests that wait for a place; may be read from any thread."""
        return sum(map(len, list(self._lines.values())))

    @asynccontextmanager
    async def place(self, client: str, *, again: bool = False) -> AsyncIterator[None]:
        """A place within the block; waits for it without a bound of its own.

        Args:
            again: the request had a place before; it waits at the head of its client's line.
        """
        if self.free:
            self._give(client)
        else:
            await self._wait(client, again)
        try:
            yield
        finally:
            self._leave(client)

    async def _wait(self, client: str, again: bool) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = self._lines.setdefault(client, deque())
        line.insert(0 if again else len(line), turn)
        self.returning += again
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(client)  # the place came in the same moment
            else:
                self._drop(client, turn)
            raise
        finally:
            self.returning -= again

    def _leave(self, client: str) -> None:
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
        if turn in (line := self._lines.get(client, deque())):
            line.remove(turn)
            if not line:
                del self._lines[client]
                self._forget(client)

    def _forget(self, client: str) -> None:
        if not self._inside[client] and client not in self._lines:
            self._inside.pop(client, None)
            self._turns.pop(client, None)
