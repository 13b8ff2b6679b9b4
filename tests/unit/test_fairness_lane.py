"""A lane: who runs, who waits, and who is told that it is full."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from waiting import PATIENCE

from ananke_client.errors import OverloadedError
from ananke_server.fairness.lane import Lane


def test_a_full_lane_lets_another_client_in_and_serves_it_next() -> None:
    async def scenario() -> None:
        lane, ended, gates = Lane(1, 3), [], [asyncio.Event() for _ in range(6)]

        async def run(name: str, number: int) -> None:
            async with lane.place(name[0]):
                await gates[number].wait()
                ended.append(name)

        async with asyncio.timeout(PATIENCE):
            tasks = []
            for number, name in enumerate(("a0", "a1", "a2", "a3")):
                assert lane.free == (number == 0)
                tasks.append(asyncio.create_task(run(name, number)))
                await asyncio.sleep(0)
            with pytest.raises(OverloadedError, match="too many requests are pending"):
                await run("a4", 4)
            tasks.append(asyncio.create_task(run("b0", 5)))
            for gate in gates:
                await asyncio.sleep(0)
                gate.set()
            with pytest.raises(OverloadedError, match="other clients have fewer"):
                await tasks.pop(3)
            await asyncio.gather(*tasks)
        assert ended == ["a0", "b0", "a1", "a2"]
        assert lane.free

    asyncio.run(scenario())


def test_whoever_leaves_gives_the_place_on() -> None:
    async def scenario() -> None:
        lane = Lane(1, 1)
        for _ in range(3):
            with suppress(ZeroDivisionError):
                async with lane.place(""):
                    raise ZeroDivisionError
        assert lane.free

    asyncio.run(scenario())
