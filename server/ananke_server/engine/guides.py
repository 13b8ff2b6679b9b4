"""Guides, seen from the model process: a request enters the engine once its matcher is ready in every worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from ananke_client.errors import AnankeError, ConstraintTooLargeError, DeadEndError, EngineUnavailableError, InternalError, OverloadedError
from ananke_server.masking.tickets import Failure, Outcome, Ticket, TicketOffice, TicketTable

logger = logging.getLogger(__name__)

FIRST_POLL = 0.0005
LONGEST_POLL = 0.01

Sync = Callable[[list[list[Any]], list[list[int]]], Coroutine[Any, Any, object]]
"""Sends orders to prepare and tickets to release to every worker."""


class GuideDesk:
    """Opens tickets, has the workers prepare their matchers, and closes them. Lives on one event loop."""

    def __init__(self, table: TicketTable, *, ranks: int, sync: Sync, engine_is_dead: Callable[[], bool]) -> None:
        self._office = TicketOffice(table)
        self._table = table
        self._ranks = ranks
        self._sync = sync
        self._engine_is_dead = engine_is_dead
        self._prepare: list[list[Any]] = []
        self._release: list[Ticket] = []
        self._lost: set[Ticket] = set()
        self._flusher: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def guide(self, grammar: str) -> AsyncIterator[Ticket]:
        """A ticket whose matcher is ready everywhere; it is released at the end, also of a request that failed.

        Raises:
            OverloadedError: no ticket is free.
            EngineUnavailableError: the engine died while the matcher was being made.
            AnankeError: the matcher could not be made.
        """
        ticket = self._office.take()
        if ticket is None:
            raise OverloadedError("too many constrained requests are in the engine; try again later")
        try:
            self._prepare.append([ticket.index, ticket.generation, grammar])
            self._flush()
            await self._wait_until_ready(ticket)
            self.check(ticket)
            yield ticket
        finally:
            self._lost.discard(ticket)
            self._release.append(ticket)
            self._flush()

    def check(self, ticket: Ticket) -> Outcome:
        """What the workers wrote of a ticket.

        Raises:
            AnankeError: its matcher failed.
        """
        outcome = self._table.outcome(ticket)
        if (error := _error_of(outcome)) is not None:
            raise error
        return outcome

    async def _wait_until_ready(self, ticket: Ticket) -> None:
        pause = FIRST_POLL
        while self._table.ready_ranks(ticket) < self._ranks:
            if self._engine_is_dead():
                raise EngineUnavailableError("the engine died while the constraint was being prepared")
            if ticket in self._lost:
                raise EngineUnavailableError("the workers did not take the constraint; try again")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL)

    def _flush(self) -> None:
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        # One call at a time, so that under load each carries the orders of many requests.
        while self._prepare or self._release:
            prepare, self._prepare = self._prepare, []
            release, self._release = self._release, []
            try:
                await self._sync(prepare, [[ticket.index, ticket.generation] for ticket in release])
            except Exception:
                self._lost.update(Ticket(index, generation) for index, generation, _ in prepare)
                if not self._engine_is_dead():
                    logger.exception("the workers did not take %d orders and %d releases", len(prepare), len(release))
            finally:
                for ticket in release:
                    self._office.give_back(ticket)


def _error_of(outcome: Outcome) -> AnankeError | None:
    match outcome.failure:
        case Failure.NONE:
            return None
        case Failure.DEAD_END:
            return DeadEndError(outcome.message)
        case Failure.TOO_COMPLEX:
            return ConstraintTooLargeError(outcome.message)
        case Failure.INTERNAL:
            return InternalError(f"the matcher failed: {outcome.message}")
