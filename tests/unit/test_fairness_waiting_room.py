"""The waiting room: who gives way when the queue is full, whatever requests wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from ananke_client.errors import OverloadedError
from ananke_server.fairness.waiting_room import LONGEST_WAIT, SHORTEST_WAIT, Stay, WaitingRoom


class Room:
    """A room and the requests in it, by name, which wait until they are let go."""

    def __init__(self) -> None:
        self.now = 0.0
        self.room = WaitingRoom(lambda: self.now)
        self.tasks: dict[str, asyncio.Task[str]] = {}
        self.stays: dict[str, Stay] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def ask(self, name: str, client: str) -> None:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._wait(name, client))
        await asyncio.sleep(0)

    async def end(self, name: str) -> None:
        self._ends[name].set()
        assert await self.tasks[name] == name

    async def given_way(self, *names: str) -> None:
        for name in names:
            with pytest.raises(OverloadedError, match="other clients have fewer"):
                await self.tasks[name]

    async def _wait(self, name: str, client: str) -> str:
        async with self.room.stay(client) as self.stays[name]:
            await self._ends[name].wait()
            return name


def runs(scenario: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await scenario

    asyncio.run(bounded())


def test_the_newest_of_the_client_with_the_most_gives_way() -> None:
    async def scenario() -> None:
        room = Room()
        for number in range(5):
            await room.ask(f"flood {number}", "flood")
        with pytest.raises(OverloadedError, match=r"too many requests are pending; try again in \d+\.\d s"):
            room.room.make_room("flood")
        for client in ("other", "another"):
            room.room.make_room(client)
            await room.ask(client, client)
        await room.given_way("flood 4", "flood 3")
        assert len(room.room) == 5
        for name in ("flood 0", "flood 1", "flood 2", "other", "another"):
            await room.end(name)
        assert len(room.room) == 0

    runs(scenario())


def test_clients_with_as_many_do_not_give_way() -> None:
    async def scenario() -> None:
        room = Room()
        with pytest.raises(OverloadedError):
            room.room.make_room("c")
        for name in ("a1", "a2", "b1"):
            await room.ask(name, name[0])
        for client in "ab":
            with pytest.raises(OverloadedError):
                room.room.make_room(client)
        assert len(room.room) == 3
        room.stays["a2"].over()
        with pytest.raises(OverloadedError):
            room.room.make_room("c")

    runs(scenario())


def test_who_is_in_the_engine_gives_way_to_none() -> None:
    async def scenario() -> None:
        room = Room()
        for number in range(4):
            await room.ask(str(number), "flood")
        for name in ("2", "3"):
            room.stays[name].over()
            room.stays[name].over()
        assert len(room.room) == 2
        room.room.make_room("other")
        await room.given_way("1")
        with pytest.raises(OverloadedError):
            room.room.make_room("other")
        for name in ("0", "2", "3"):
            await room.end(name)

    runs(scenario())


def test_who_was_cancelled_in_the_same_moment_is_cancelled_and_not_overloaded() -> None:
    async def scenario() -> None:
        room = Room()
        for number in range(3):
            await room.ask(str(number), "flood")
        room.room.make_room("other")
        room.tasks["2"].cancel()
        with pytest.raises(asyncio.CancelledError):
            await room.tasks["2"]

    runs(scenario())


def test_a_request_may_wait_under_a_deadline() -> None:
    async def scenario() -> None:
        room = WaitingRoom()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), room.stay("a"):
                await asyncio.sleep(10)
        assert len(room) == 0

    runs(scenario())


def test_the_hint_is_what_those_before_take_to_leave_for_the_engine() -> None:
    async def scenario() -> None:
        room = Room()

        def hint() -> float:
            with pytest.raises(OverloadedError) as full:
                room.room.make_room("a")
            assert full.value.retry_after is not None
            return full.value.retry_after

        for number in range(8):
            await room.ask(str(number), "a")
        assert hint() == pytest.approx(SHORTEST_WAIT)
        room.now += 2
        assert hint() == pytest.approx(2 * 9), "nobody left so far"
        for number in range(4):
            room.stays[str(number)].over()
            room.now += 2
        room.stays["4"].over()
        assert hint() == pytest.approx(2 * 4)
        room.now += 1000
        assert hint() == LONGEST_WAIT
        for number in range(8):
            await room.end(str(number))
        room.now += 1000
        await room.ask("later", "a")
        assert hint() == pytest.approx(2 * 2), "an empty room is no slow one"

    runs(scenario())
