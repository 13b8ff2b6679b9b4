"""Guides, seen from the engine's event loop: a request enters the engine once its matcher is ready."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ananke_client.errors import AnankeError, ConstraintTooLargeError, DeadEndError, EngineUnavailableError, InternalError
from ananke_server.masking.crew import CrewDeadError, MaskCrew
from ananke_server.masking.tickets import Failure, Outcome, Ticket

REMEMBERED_PROGRAMS = 4096


@dataclass(slots=True)
class Hold:
    """A request's hold on its guide."""

    ticket: Ticket
    crew: MaskCrew
    released: bool = False

    async def finish(self) -> Outcome:
        """Let go of the guide, the request having ended; returns what was counted of its masks.

        Raises:
            EngineUnavailableError: the mask processes have ended.
            AnankeError: the matcher failed on the way.
        """
        self.released = True
        try:
            outcome = await self.crew.release(self.ticket)
        except CrewDeadError:
            raise _crew_is_dead() from None
        if (error := _error_of(outcome.failure, outcome.message)) is not None:
            raise error
        return outcome


@dataclass
class GuideDesk:
    """Gives tickets to constrained requests, each to the mask process that has least to do. Lives on one event loop."""

    crew: MaskCrew
    processes: int | None = None
    """So many of the crew's processes are given requests; None is all."""
    _loads: Counter[int] = field(default_factory=Counter)
    _acquainted: OrderedDict[int, list[int]] = field(default_factory=OrderedDict)
    """By a program's hash the mask processes that have seen it, and so have it compiled."""
    _numbers: int = 0

    @asynccontextmanager
    async def guide(self, program: str, *, of_schema: bool = False) -> AsyncIterator[Hold]:
        """A hold on a guide that is ready; it is let go at the end, also of a request that failed.

        Args:
            of_schema: the program is what the compiler made of a JSON schema, and nothing that a user wrote.

        Raises:
            EngineUnavailableError: the mask processes have ended.
            AnankeError: the matcher could not be made.
        """
        self._numbers += 1
        hold = Hold(Ticket(self._numbers, self._owner_for(program)), self.crew)
        owner = hold.ticket.owner
        self._loads[owner] += 1
        try:
            failure, message = await self.crew.prepare(hold.ticket, program, of_schema=of_schema)
            if (error := _error_of(failure, message)) is not None:
                raise error
            yield hold
        except CrewDeadError:
            raise _crew_is_dead() from None
        finally:
            self._loads[owner] -= 1
            if not hold.released:
                self.crew.release(hold.ticket)

    def _owner_for(self, program: str) -> int:
        """The least loaded mask process, of several one that knows the program."""
        key = hash(program)
        known = self._acquainted.setdefault(key, [])
        self._acquainted.move_to_end(key)
        if len(self._acquainted) > REMEMBERED_PROGRAMS:
            self._acquainted.popitem(last=False)
        owner = min(range(self.processes or self.crew.processes), key=lambda process: (self._loads[process], process not in known))
        if owner not in known:
            known.append(owner)
        return owner


def _crew_is_dead() -> EngineUnavailableError:
    return EngineUnavailableError("the processes that fill masks have ended")


def _error_of(failure: Failure, message: str) -> AnankeError | None:
    match failure:
        case Failure.NONE:
            return None
        case Failure.DEAD_END:
            return DeadEndError(message)
        case Failure.TOO_COMPLEX:
            return ConstraintTooLargeError(message)
        case _:
            return InternalError(f"the matcher failed: {message}")
