"""Admission: fair shares of some places."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable

import pytest
from waiting import PATIENCE

from ananke_server.fairness.admission import Admission


class Run:
    """Requests by name, which hold a place until they are let go."""

    def __init__(self, places: int) -> None:
        self.admission = Admission(places)
        self.inside: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def ask(self, name: str, client: str, *, again: bool = False) -> None:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name, client, again))
        await asyncio.sleep(0)

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self.tasks[name]
        await settle()

    async def _hold(self, name: str, client: str, again: bool) -> None:
        async with self.admission.place(client, again=again):
            self.inside.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.inside.remove(name)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def runs(scenario: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await scenario

    asyncio.run(bounded())


def test_a_flood_delays_another_clients_request_by_one_place() -> None:
    async def scenario() -> None:
        run = Run(places=2)
        for number in range(50):
            await run.ask(f"flood {number}", "flood")
        await run.ask("single", "other")
        assert run.inside == ["flood 0", "flood 1"]
        assert run.admission.waiting == 49
        await run.end("flood 0")
        assert run.inside == ["flood 1", "single"]
        await run.end("single")
        assert run.inside == ["flood 1", "flood 2"]

    runs(scenario())


def test_a_request_that_was_in_before_is_next_of_its_client() -> None:
    async def scenario() -> None:
        run = Run(places=1)
        for name in ("first", "second"):
            await run.ask(name, "a")
        for name in ("back", "back too"):
            await run.ask(name, "a", again=True)
        assert (run.admission.waiting, run.admission.returning) == (3, 2)
        await run.end("first")
        assert run.inside == ["back too"]
        await run.end("back too")
        assert run.inside == ["back"]
        assert (run.admission.waiting, run.admission.returning) == (1, 0)

    runs(scenario())


def test_places_are_shared_evenly_and_each_line_keeps_its_order() -> None:
    async def scenario() -> None:
        run = Run(places=6)
        for number in range(60):
            await run.ask(f"a{number:02}", "a")
        for number in range(30):
            await run.ask(f"b{number:02}", "b")
            await run.ask(f"c{number:02}", "c")
        seen: list[str] = []
        while run.inside:
            shares = Counter(name[0] for name in run.inside)
            if 6 <= len(seen) <= 60:  # all three have requests waiting
                assert set(shares.values()) == {2}, shares
            name = run.inside[0]
            seen.append(name)
            await run.end(name)
        for client in "abc":
            own = [name for name in seen if name[0] == client]
            assert own == sorted(own)
        assert len(seen) == 120
        assert run.admission.waiting == 0

    runs(scenario())


def test_a_place_that_is_freed_as_its_next_holder_is_cancelled_goes_to_the_one_after() -> None:
    async def scenario() -> None:
        run = Run(places=1)
        for name in ("first", "cancelled", "next"):
            await run.ask(name, name)
        # In one step of the loop: the end comes first, and the cancelled task has not run when the place is given on.
        run._ends["first"].set()
        run.tasks["cancelled"].cancel()
        run.tasks["first"].cancel()
        await settle()
        assert run.inside == ["next"]
        await run.end("next")
        await run.ask("last", "last")
        assert run.inside == ["last"]

    runs(scenario())


@pytest.mark.parametrize("seed", range(5))
def test_whoever_leaves_at_whatever_moment_no_place_is_lost(seed: int) -> None:
    async def scenario() -> None:
        chance = random.Random(seed)
        run = Run(places=3)
        for number in range(200):
            await run.ask(str(number), chance.choice("abcd"))
            if chance.random() < 0.4:
                run.tasks[str(chance.randrange(number + 1))].cancel()
            if run.inside and chance.random() < 0.4:
                # The end of one and the cancel of the next may fall into the same moment.
                run._ends[chance.choice(run.inside)].set()
            if chance.random() < 0.5:
                await settle()
            assert len(run.inside) <= 3
        for end in run._ends.values():
            end.set()
        await asyncio.wait(run.tasks.values())
        assert run.admission.waiting == 0
        for number in range(3):
            await run.ask(f"last {number}", "x")
        assert len(run.inside) == 3

    runs(scenario())
