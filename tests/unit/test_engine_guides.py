"""The guide desk: which mask process guides a request, no guide kept after its request, and failures as errors of their own kinds."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from ananke_client.errors import AnankeError, ConstraintTooLargeError, DeadEndError, EngineUnavailableError, InternalError
from ananke_server.engine import guides
from ananke_server.engine.guides import GuideDesk, Hold
from ananke_server.masking.crew import CrewDeadError
from ananke_server.masking.tickets import Failure, Outcome, Ticket

LONG = 5.0
"""Seconds that nothing here may take."""


@dataclass
class Crew:
    """Stands for the mask processes: answers what it is told to, at once or when it is let."""

    processes: int = 3
    dead: bool = False
    failure: Failure = Failure.NONE
    outcome: Outcome = field(default_factory=Outcome)
    go: asyncio.Event | None = None
    prepared: list[tuple[Ticket, str]] = field(default_factory=list)
    released: list[Ticket] = field(default_factory=list)
    unanswered: list[asyncio.Future[Outcome]] = field(default_factory=list)
    answers: bool = True

    async def prepare(self, ticket: Ticket, program: str, *, of_schema: bool) -> tuple[Failure, str]:
        self.prepared.append((ticket, program))
        if self.go is not None:
            await self.go.wait()
        if self.dead:
            raise CrewDeadError
        return self.failure, "because" if self.failure else ""

    def release(self, ticket: Ticket) -> asyncio.Future[Outcome]:
        self.released.append(ticket)
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self.dead:
            answer.set_exception(CrewDeadError())
        elif self.answers:
            answer.set_result(self.outcome)
        else:
            self.unanswered.append(answer)
        return answer

    def desk(self) -> GuideDesk:
        return GuideDesk(self)  # type: ignore[arg-type]

    @property
    def tickets(self) -> list[Ticket]:
        return [ticket for ticket, _ in self.prepared]


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario, and fail it where it hangs."""

    async def within_time() -> None:
        async with asyncio.timeout(LONG):
            await scenario()

    asyncio.run(within_time())


def idle(desk: GuideDesk, crew: Crew) -> bool:
    """Whether each guide has been let go, once, by the process that made it."""
    return sorted(crew.released) == sorted(crew.tickets) and not any(desk._loads.values())


def test_a_guide_is_ready_before_it_is_handed_out() -> None:
    async def scenario() -> None:
        crew = Crew(go=asyncio.Event())
        desk = crew.desk()
        entering = asyncio.create_task(desk.guide("grammar").__aenter__())
        await asyncio.sleep(0.01)
        assert [program for _, program in crew.prepared] == ["grammar"]
        assert not entering.done()
        assert crew.go is not None
        crew.go.set()
        hold = await entering
        assert isinstance(hold, Hold)
        assert [hold.ticket] == crew.tickets
        assert not crew.released

    run(scenario)


def test_no_ticket_is_given_twice() -> None:
    async def scenario() -> None:
        crew = Crew()
        desk = crew.desk()

        async def request(number: int) -> None:
            async with desk.guide(f"grammar {number % 7}") as hold:
                await asyncio.sleep(0.001 * (number % 3))
                if number % 2:
                    await hold.finish()

        await asyncio.gather(*map(request, range(100)))
        assert len({ticket.number for ticket in crew.tickets}) == 100
        assert idle(desk, crew)

    run(scenario)


@pytest.mark.parametrize("seed", range(5))
def test_the_least_loaded_process_guides_the_next_request(seed: int) -> None:
    async def scenario() -> None:
        chooser = random.Random(seed)
        crew = Crew(processes=3)
        desk = crew.desk()
        running: list[tuple[AsyncExitStack, int]] = []
        for number in range(80):
            if running and chooser.random() < 0.4:
                await running.pop(chooser.randrange(len(running)))[0].aclose()
            loads = Counter(owner for _, owner in running)
            stack = AsyncExitStack()
            hold = await stack.enter_async_context(desk.guide(f"grammar {number % 5}"))
            assert loads[hold.ticket.owner] == min(loads[process] for process in range(3))
            running.append((stack, hold.ticket.owner))
        for stack, _ in running:
            await stack.aclose()
        assert idle(desk, crew)

    run(scenario)


def test_a_desk_may_leave_processes_alone() -> None:
    async def scenario() -> None:
        desk = GuideDesk(Crew(processes=4), processes=2)  # type: ignore[arg-type]
        async with AsyncExitStack() as stack:
            holds = [await stack.enter_async_context(desk.guide(f"grammar {number}")) for number in range(6)]
        assert Counter(hold.ticket.owner for hold in holds) == {0: 3, 1: 3}

    run(scenario)


def test_a_program_goes_where_it_is_known_unless_that_process_has_more_to_do() -> None:
    async def scenario() -> None:
        crew = Crew(processes=4)
        desk = crew.desk()
        async with desk.guide("other"), desk.guide("known") as first:
            home = first.ticket.owner
            async with desk.guide("known") as second:
                away = second.ticket.owner
                assert away != home, "the load comes first"
                assert away != crew.tickets[0].owner
        for _ in range(3):
            async with desk.guide("known") as hold, desk.guide("known") as another:
                assert {hold.ticket.owner, another.ticket.owner} == {home, away}, "of equally loaded ones those that know it"
        async with desk.guide("new") as hold, desk.guide("known") as known:
            assert known.ticket.owner in {home, away} - {hold.ticket.owner}

    run(scenario)


def test_what_is_remembered_of_programs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guides, "REMEMBERED_PROGRAMS", 3)

    async def scenario() -> None:
        crew = Crew(processes=2)
        desk = crew.desk()
        async with desk.guide("busy"):
            async with desk.guide("a"), desk.guide("often"):
                known = desk._acquainted[hash("often")]
            for number in range(10):
                async with desk.guide(f"grammar {number}"), desk.guide("often"):
                    assert len(desk._acquainted) <= 3
        assert desk._acquainted[hash("often")] is known, "the least recently used are forgotten"
        assert hash("a") not in desk._acquainted

    run(scenario)


class Leaving(Exception):
    pass


@pytest.mark.parametrize("leave", ["at the end", "early", "by an exception", "by a cancellation"])
def test_a_guide_is_let_go_however_its_request_ends(leave: str) -> None:
    async def scenario() -> None:
        crew = Crew(outcome=Outcome(steps=4))
        desk = crew.desk()
        inside = asyncio.Event()

        async def request() -> None:
            async with desk.guide("g") as hold:
                inside.set()
                if leave == "at the end":
                    assert (await hold.finish()).steps == 4
                if leave == "by an exception":
                    raise Leaving
                if leave == "by a cancellation":
                    await asyncio.sleep(LONG)

        task = asyncio.create_task(request())
        await inside.wait()
        if leave == "by a cancellation":
            task.cancel()
        [ended] = await asyncio.gather(task, return_exceptions=True)
        assert type(ended) is {"by an exception": Leaving, "by a cancellation": asyncio.CancelledError}.get(leave, type(None))
        assert idle(desk, crew)

    run(scenario)


def test_a_request_cancelled_while_its_guide_is_made_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        crew = Crew(go=asyncio.Event())
        desk = crew.desk()
        task = asyncio.create_task(desk.guide("g").__aenter__())
        await asyncio.sleep(0.01)
        assert not crew.released
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert idle(desk, crew)
        assert len(crew.tickets) == 1

    run(scenario)


def test_a_request_cancelled_while_its_outcome_is_on_its_way_is_let_go_once() -> None:
    async def scenario() -> None:
        crew = Crew(answers=False)
        desk = crew.desk()

        async def request() -> None:
            async with desk.guide("g") as hold:
                await hold.finish()

        task = asyncio.create_task(request())
        await asyncio.sleep(0.01)
        assert len(crew.unanswered) == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert idle(desk, crew)

    run(scenario)


FAILURES = [(Failure.DEAD_END, DeadEndError), (Failure.TOO_COMPLEX, ConstraintTooLargeError), (Failure.INTERNAL, InternalError)]


@pytest.mark.parametrize(("failure", "error"), FAILURES)
def test_a_guide_that_cannot_be_made_is_an_error_of_its_own_kind(failure: Failure, error: type[AnankeError]) -> None:
    async def scenario() -> None:
        crew = Crew(failure=failure)
        desk = crew.desk()
        with pytest.raises(error, match="because"):
            async with desk.guide("g"):
                raise AssertionError("it is not entered")
        assert idle(desk, crew)
        crew.failure = Failure.NONE
        async with desk.guide("g"):
            pass

    run(scenario)


@pytest.mark.parametrize(("failure", "error"), FAILURES)
def test_a_failure_on_the_way_is_found_at_the_end(failure: Failure, error: type[AnankeError]) -> None:
    async def scenario() -> None:
        crew = Crew(outcome=Outcome(failure, "at step 2", steps=2))
        desk = crew.desk()
        with pytest.raises(error, match="at step 2"):
            async with desk.guide("g") as hold:
                await hold.finish()
        assert idle(desk, crew)

    run(scenario)


@pytest.mark.parametrize("moment", ["before", "while the guide is made", "running", "while the outcome is on its way"])
def test_mask_processes_that_end_make_the_engine_unavailable(moment: str) -> None:
    async def scenario() -> None:
        crew = Crew(dead=moment == "before", answers=False)
        crew.go = asyncio.Event()
        if moment != "while the guide is made":
            crew.go.set()
        desk = crew.desk()
        entered = asyncio.Event()

        async def request() -> None:
            async with desk.guide("g") as hold:
                entered.set()
                crew.dead = moment == "running"
                await hold.finish()

        task = asyncio.create_task(request())
        await asyncio.sleep(0.01)
        crew.dead = True
        crew.go.set()
        for answer in crew.unanswered:
            answer.set_exception(CrewDeadError())
        with pytest.raises(EngineUnavailableError, match="the processes that fill masks have ended"):
            await task
        assert entered.is_set() == (moment not in ("before", "while the guide is made"))
        assert idle(desk, crew)

    run(scenario)
