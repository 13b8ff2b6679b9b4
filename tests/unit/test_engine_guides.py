"""The guide desk: no request before its matcher is ready, no ticket lost, whatever fails on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from ananke_client.errors import AnankeError, ConstraintTooLargeError, DeadEndError, EngineUnavailableError, InternalError, OverloadedError
from ananke_server.engine.guides import GuideDesk
from ananke_server.masking.tickets import Failure, Ticket, TicketTable

LONG = 5.0
"""Seconds that nothing here may take."""


@dataclass
class Workers:
    """Stands for vLLM's workers: makes every matcher that it is asked for, as slowly and as badly as it is told."""

    table: TicketTable
    ranks: int = 1
    delay: float = 0.0
    dead: bool = False
    ready: bool = True
    failure: Failure = Failure.NONE
    faults: list[Exception] = field(default_factory=list)
    hold: asyncio.Event | None = None
    calls: list[tuple[list[list[Any]], list[list[int]]]] = field(default_factory=list)

    async def sync(self, prepare: list[list[Any]], release: list[list[int]]) -> None:
        if self.faults:
            raise self.faults.pop(0)
        if self.hold is not None:
            await self.hold.wait()
        await asyncio.sleep(self.delay)
        self.calls.append((prepare, release))
        for index, generation, _ in prepare:
            ticket = Ticket(index, generation)
            if self.failure:
                self.table.fail(ticket, self.failure, "because")
            for rank in range(self.ranks if self.ready else 0):
                self.table.mark_ready(ticket, rank)

    def desk(self) -> GuideDesk:
        return GuideDesk(self.table, ranks=self.ranks, sync=self.sync, engine_is_dead=lambda: self.dead)

    @property
    def prepared(self) -> list[list[Any]]:
        return [order for prepare, _ in self.calls for order in prepare]

    @property
    def released(self) -> list[list[int]]:
        return [ticket for _, release in self.calls for ticket in release]


@pytest.fixture
def workers() -> Iterator[Workers]:
    table = TicketTable.create(4)
    yield Workers(table)
    table.unlink()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario, and fail it where it hangs."""

    async def within_time() -> None:
        async with asyncio.timeout(LONG):
            await scenario()

    asyncio.run(within_time())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def all_free(desk: GuideDesk, workers: Workers) -> None:
    """Every ticket can be had at once, and one more cannot; all are back at the end."""

    def every_ticket_is_back() -> bool:
        return len(desk._office._free) == len(workers.table)

    await until(every_ticket_is_back)
    async with guides(desk, len(workers.table)) as tickets:
        assert len({ticket.index for ticket in tickets}) == len(workers.table)
        with pytest.raises(OverloadedError):
            async with desk.guide("g"):
                pass
    await until(every_ticket_is_back)


@asynccontextmanager
async def guides(desk: GuideDesk, count: int) -> AsyncIterator[list[Ticket]]:
    if count == 0:
        yield []
        return
    async with desk.guide("g") as ticket, guides(desk, count - 1) as rest:
        yield [ticket, *rest]


def test_a_guide_is_ready_on_every_rank_before_it_is_handed_out(workers: Workers) -> None:
    workers.ranks, workers.ready = 2, False

    async def scenario() -> None:
        entered = asyncio.Event()

        async def request() -> None:
            async with workers.desk().guide("grammar"):
                entered.set()

        task = asyncio.create_task(request())
        await until(lambda: workers.prepared)
        [[index, generation, grammar]] = workers.prepared
        assert grammar == "grammar"
        for rank in range(2):
            await asyncio.sleep(0.05)
            assert not entered.is_set()
            workers.table.mark_ready(Ticket(index, generation), rank)
        await task
        assert entered.is_set()

    run(scenario)


@pytest.mark.parametrize("requests", [1, 200])
def test_many_requests_take_few_calls(requests: int) -> None:
    table = TicketTable.create(requests)
    workers = Workers(table, delay=0.01)

    async def scenario() -> None:
        desk = workers.desk()

        async def request(number: int) -> None:
            async with desk.guide(f"grammar {number}"):
                await asyncio.sleep(0.01)

        await asyncio.gather(*map(request, range(requests)))
        await until(lambda: len(workers.released) == requests)

    run(scenario)
    table.unlink()
    assert sorted(grammar for _, _, grammar in workers.prepared) == sorted(f"grammar {number}" for number in range(requests))
    assert sorted(workers.released) == sorted([index, generation] for index, generation, _ in workers.prepared)
    assert len(workers.calls) <= 6


def test_calls_never_overlap(workers: Workers) -> None:
    running, most = 0, 0

    async def sync(prepare: list[list[Any]], release: list[list[int]]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        await workers.sync(prepare, release)
        running -= 1

    async def scenario() -> None:
        desk = GuideDesk(workers.table, ranks=1, sync=sync, engine_is_dead=lambda: False)

        async def request(number: int) -> None:
            await asyncio.sleep(number / 1000)
            async with desk.guide("g"):
                pass

        for _ in range(5):
            await asyncio.gather(*map(request, range(4)))
            await all_free(desk, workers)

    run(scenario)
    assert most == 1


class Leaving(Exception):
    pass


@pytest.mark.parametrize("leave", ["normally", "by an exception", "by a cancellation"])
def test_a_ticket_is_released_however_its_request_ends(workers: Workers, leave: str) -> None:
    async def scenario() -> None:
        desk = workers.desk()
        inside = asyncio.Event()

        async def request() -> None:
            async with desk.guide("g"):
                inside.set()
                if leave == "by an exception":
                    raise Leaving
                if leave == "by a cancellation":
                    await asyncio.sleep(LONG)

        task = asyncio.create_task(request())
        await inside.wait()
        if leave == "by a cancellation":
            task.cancel()
        [ended] = await asyncio.gather(task, return_exceptions=True)
        assert type(ended) is {"normally": type(None), "by an exception": Leaving}.get(leave, asyncio.CancelledError)
        await until(lambda: workers.released)
        assert workers.released == [order[:2] for order in workers.prepared]
        await all_free(desk, workers)

    run(scenario)


@pytest.mark.parametrize("moment", [0.0, 0.02], ids=["before the order is sent", "while the matcher is made"])
def test_a_request_cancelled_while_it_waits_leaves_nothing_behind(workers: Workers, moment: float) -> None:
    workers.ready = False

    async def scenario() -> None:
        desk = workers.desk()
        task = asyncio.create_task(desk.guide("g").__aenter__())
        await asyncio.sleep(moment)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        if workers.prepared or moment:
            await until(lambda: workers.released)
        assert workers.released == [order[:2] for order in workers.prepared]
        workers.ready = True
        await all_free(desk, workers)

    run(scenario)


def test_a_ticket_is_used_again_only_after_its_release_was_sent() -> None:
    table = TicketTable.create(1)
    workers = Workers(table)

    async def scenario() -> None:
        desk = workers.desk()
        async with desk.guide("first") as first:
            workers.hold = asyncio.Event()
        await asyncio.sleep(0.02)
        assert workers.released == []
        with pytest.raises(OverloadedError):
            await desk.guide("too early").__aenter__()
        workers.hold.set()
        await until(lambda: workers.released)
        await asyncio.sleep(0)
        async with desk.guide("second") as second:
            assert (second.index, second.generation) == (first.index, first.generation + 1)

    run(scenario)
    table.unlink()


def test_no_ticket_left_means_overloaded_at_once(workers: Workers) -> None:
    async def scenario() -> None:
        desk = workers.desk()
        async with guides(desk, 4):
            for _ in range(3):
                with pytest.raises(OverloadedError):
                    await desk.guide("g").__aenter__()
        await all_free(desk, workers)

    run(scenario)
    assert len(workers.prepared) == 8


def test_an_engine_that_dies_ends_the_wait(workers: Workers) -> None:
    workers.ready = False

    async def scenario() -> None:
        desk = workers.desk()
        waiting = [asyncio.create_task(desk.guide("g").__aenter__()) for _ in range(3)]
        await until(lambda: len(workers.prepared) == 3)
        workers.dead = True
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in ended] == [EngineUnavailableError] * 3

    run(scenario)


def test_an_engine_that_dies_while_orders_are_sent_ends_the_wait(workers: Workers) -> None:
    async def sync(prepare: list[list[Any]], release: list[list[int]]) -> None:
        workers.dead = True
        raise RuntimeError("the engine has died")

    async def scenario() -> None:
        desk = GuideDesk(workers.table, ranks=1, sync=sync, engine_is_dead=lambda: workers.dead)
        with pytest.raises(EngineUnavailableError):
            await desk.guide("g").__aenter__()

    run(scenario)


@pytest.mark.parametrize(
    ("failure", "error"),
    [(Failure.DEAD_END, DeadEndError), (Failure.TOO_COMPLEX, ConstraintTooLargeError), (Failure.INTERNAL, InternalError)],
)
def test_a_matchers_failure_is_an_error_of_its_own_kind(workers: Workers, failure: Failure, error: type[AnankeError]) -> None:
    workers.failure = failure

    async def scenario() -> None:
        desk = workers.desk()
        with pytest.raises(error, match="because"):
            await desk.guide("g").__aenter__()
        workers.failure = Failure.NONE
        await all_free(desk, workers)

    run(scenario)


def test_a_failure_after_the_start_is_found_by_the_last_check(workers: Workers) -> None:
    async def scenario() -> None:
        desk = workers.desk()
        async with desk.guide("g") as ticket:
            workers.table.count_step([ticket], 7)
            assert (desk.check(ticket).steps, desk.check(ticket).wait_ns) == (1, 7)
            workers.table.fail(ticket, Failure.DEAD_END, "at step 2")
            with pytest.raises(DeadEndError, match="at step 2"):
                desk.check(ticket)

    run(scenario)


def test_a_failed_release_loses_no_ticket(workers: Workers) -> None:
    async def scenario() -> None:
        desk = workers.desk()
        for _ in range(3):
            async with guides(desk, 4):
                workers.faults = [RuntimeError("no worker answers")]
            await until(lambda: not workers.faults)
            await all_free(desk, workers)

    run(scenario)


def test_a_failed_call_holds_up_nobody_that_comes_after(workers: Workers) -> None:
    workers.faults = [RuntimeError("no worker answers")]

    async def scenario() -> None:
        desk = workers.desk()
        unlucky = asyncio.create_task(desk.guide("g").__aenter__())
        await until(lambda: not workers.faults)
        async with desk.guide("g"):
            pass
        unlucky.cancel()
        await asyncio.gather(unlucky, return_exceptions=True)
        await all_free(desk, workers)

    run(scenario)


def test_a_failed_call_fails_the_requests_it_was_for(workers: Workers) -> None:
    workers.faults = [RuntimeError("no worker answers")]

    async def scenario() -> None:
        with pytest.raises(AnankeError):
            async with asyncio.timeout(1):
                await workers.desk().guide("g").__aenter__()

    run(scenario)
