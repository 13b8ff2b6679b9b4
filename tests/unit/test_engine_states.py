"""The engine's life on a scripted engine: what a real one does when it dies, sleeps or does not start takes half a minute each time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from waiting import PATIENCE

from ananke_client.errors import EngineUnavailableError
from ananke_server.engine import life as life_module
from ananke_server.engine.life import EngineLife, EngineState, Rest

NEVER = Rest(None, 1)


class ScriptedEngine:
    """Stands for vLLM with its mask processes."""

    def __init__(self, number: int, *, can_sleep: bool = True) -> None:
        self.number = number
        self.can_sleep = can_sleep
        self.fault: str | None = None
        self.calls: list[str] = []
        self.sleep_fails = self.hangs = False

    async def sleep(self, level: int) -> None:
        await asyncio.sleep(0.01)
        if self.sleep_fails:
            raise RuntimeError("it does not sleep")
        self.calls.append(f"sleep {level}")

    async def wake(self, level: int) -> None:
        await asyncio.sleep(3600 if self.hangs else 0.01)
        self.calls.append(f"wake {level}")

    async def shutdown(self) -> None:
        self.calls.append("shutdown")


class Factory:
    """Makes engines; fails as often as it is told."""

    def __init__(self, *, can_sleep: bool = True) -> None:
        self.made: list[ScriptedEngine] = []
        self.failures = 0
        self.can_sleep = can_sleep

    async def __call__(self) -> Any:
        await asyncio.sleep(0.02)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("no memory")
        self.made.append(ScriptedEngine(len(self.made), can_sleep=self.can_sleep))
        return self.made[-1]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life_module, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(life_module, "DRAIN_SECONDS", 0.3)
    monkeypatch.setattr(life_module, "LONGEST_BACKOFF", 0.2)


@asynccontextmanager
async def living(factory: Factory, rest: Rest = NEVER) -> AsyncIterator[EngineLife]:
    life = EngineLife(factory, rest)
    await life.open()
    try:
        async with asyncio.timeout(PATIENCE):
            yield life
    finally:
        await life.close()


async def number_of(life: EngineLife) -> int:
    async with life.engine() as engine:
        return engine.number  # type: ignore[attr-defined, no-any-return]


async def comes_to(life: EngineLife, state: EngineState) -> None:
    while life.state is not state:
        await asyncio.sleep(0.002)


def history(life: EngineLife) -> list[EngineState]:
    """The states that it enters from now on."""
    seen: list[EngineState] = []
    enter = life._enter

    def entered(state: EngineState) -> None:
        seen.append(state)
        enter(state)

    life._enter = entered  # type: ignore[method-assign]
    return seen


def test_a_first_start_that_fails_is_told() -> None:
    async def scenario() -> None:
        factory = Factory()
        factory.failures = 1
        with pytest.raises(RuntimeError, match="no memory"):
            await EngineLife(factory, NEVER).open()

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", ["the engine has died", "the processes that fill masks have ended"])
def test_a_dead_engine_is_started_again_and_requests_wait_for_it(fault: str) -> None:
    async def scenario() -> None:
        factory = Factory()
        async with living(factory) as life:
            assert await number_of(life) == 0
            factory.made[0].fault = fault
            waiting = [asyncio.create_task(number_of(life)) for _ in range(5)]
            assert await asyncio.gather(*waiting) == [1] * 5
            assert factory.made[0].calls == ["shutdown"]
            assert (life.restarts, life.last_fault) == (1, fault)

    asyncio.run(scenario())


def test_what_a_fault_leaves_alone_may_end_before_the_restart() -> None:
    async def scenario() -> None:
        factory = Factory()
        async with living(factory) as life:
            async with life.engine():
                factory.made[0].fault = "the processes that fill masks have ended"
                await comes_to(life, EngineState.RESTARTING)
                await asyncio.sleep(0.1)
                assert factory.made[0].calls == []
            assert await number_of(life) == 1

    asyncio.run(scenario())


def test_what_does_not_end_keeps_nobody_waiting_for_long() -> None:
    async def scenario() -> None:
        factory = Factory()
        async with living(factory) as life, life.engine():
            factory.made[0].fault = "the processes that fill masks have ended"
            assert await number_of(life) == 1

    asyncio.run(scenario())


def test_an_engine_that_does_not_start_is_tried_again_and_requests_are_told() -> None:
    async def scenario() -> None:
        factory = Factory()
        async with living(factory) as life:
            factory.failures = 3
            factory.made[0].fault = "the engine has died"
            await comes_to(life, EngineState.FAILED)
            with pytest.raises(EngineUnavailableError, match="did not start: RuntimeError: no memory"):
                await number_of(life)
            await comes_to(life, EngineState.RUNNING)
            assert await number_of(life) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("level", [1, 2])
def test_an_idle_engine_sleeps_and_the_next_requests_wake_it(level: int) -> None:
    async def scenario() -> None:
        factory = Factory()
        async with living(factory, Rest(0.05, level)) as life:
            for _ in range(2):
                await comes_to(life, EngineState.ASLEEP)
                assert await asyncio.gather(*(number_of(life) for _ in range(4))) == [0] * 4
            assert factory.made[0].calls == [f"sleep {level}", f"wake {level}"] * 2

    asyncio.run(scenario())


def test_a_busy_engine_does_not_sleep() -> None:
    async def scenario() -> None:
        factory = Factory()
        async with living(factory, Rest(0.05, 1)) as life:
            async with life.engine():
                await asyncio.sleep(0.3)
            assert factory.made[0].calls == []

    asyncio.run(scenario())


@pytest.mark.parametrize(("can_sleep", "level"), [(False, 1), (True, 0)])
def test_where_there_is_no_sleep_the_processes_end(can_sleep: bool, level: int) -> None:
    async def scenario() -> None:
        factory = Factory(can_sleep=can_sleep)
        async with living(factory, Rest(0.05, level)) as life:
            await comes_to(life, EngineState.ASLEEP)
            await asyncio.sleep(0.05)
            assert factory.made[0].calls == ["shutdown"]
            assert life.current is None
            assert await number_of(life) == 1
            assert life.restarts == 0

    asyncio.run(scenario())


def test_it_is_asleep_once_it_has_let_go_of_its_memory() -> None:
    async def scenario() -> None:
        factory = Factory()
        async with living(factory, Rest(0.05, 1)) as life:
            seen = history(life)
            await comes_to(life, EngineState.ASLEEP)
            assert factory.made[0].calls == ["sleep 1"]
            assert seen == [EngineState.FALLING_ASLEEP, EngineState.ASLEEP]
            assert all(state.serves for state in seen)

    asyncio.run(scenario())


def test_one_that_is_to_be_started_to_wake_and_does_not_start_is_not_ready() -> None:
    async def scenario() -> None:
        factory = Factory(can_sleep=False)
        async with living(factory, Rest(0.05, 1)) as life:
            await comes_to(life, EngineState.ASLEEP)
            factory.failures = 2
            seen = history(life)
            with pytest.raises(EngineUnavailableError, match="no memory"):
                await number_of(life)
            await comes_to(life, EngineState.RUNNING)
            failing = [EngineState.FAILED, EngineState.RESTARTING]
            assert seen[:6] == [EngineState.WAKING, *failing, *failing, EngineState.RUNNING]
            assert not any(state.serves for state in failing)
            assert life.restarts == 1

    asyncio.run(scenario())


def test_an_engine_that_dies_asleep_or_does_not_sleep_is_started_again() -> None:
    async def scenario() -> None:
        factory = Factory()
        async with living(factory, Rest(0.05, 1)) as life:
            await comes_to(life, EngineState.ASLEEP)
            factory.made[0].fault = "the engine has died"
            while len(factory.made) < 2:
                await asyncio.sleep(0.002)
            assert await number_of(life) == 1, "it was not left for this request to find"
            factory.made[1].sleep_fails = True
            await comes_to(life, EngineState.RESTARTING)
            assert await number_of(life) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("dies", [True, False])
def test_an_engine_that_dies_or_hangs_while_it_wakes_is_started_again(monkeypatch: pytest.MonkeyPatch, dies: bool) -> None:
    monkeypatch.setattr(life_module, "CALL_SECONDS", 3600 if dies else 0.1)

    async def scenario() -> None:
        factory = Factory()
        async with living(factory, Rest(0.05, 1)) as life:
            await comes_to(life, EngineState.ASLEEP)
            factory.made[0].hangs = True
            waiting = asyncio.create_task(number_of(life))
            await comes_to(life, EngineState.WAKING)
            if dies:
                factory.made[0].fault = "the engine has died"
            assert await waiting == 1

    asyncio.run(scenario())


def test_closing_tells_who_waits() -> None:
    async def scenario() -> None:
        factory = Factory()
        async with living(factory) as life:
            factory.made[0].fault = "the engine has died"
            waiting = asyncio.create_task(number_of(life))
            await comes_to(life, EngineState.RESTARTING)
            await life.close()
            with pytest.raises(EngineUnavailableError, match="the engine has died"):
                await waiting

    asyncio.run(scenario())
