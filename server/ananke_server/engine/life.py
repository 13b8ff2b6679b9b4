"""The engine's life: started, started again when it has died, put to sleep when nobody needs it, and woken.

    starting ─▶ running ─▶ falling_asleep ─▶ asleep ─▶ waking ─▶ running   idle for a while; wanted again
                running, asleep ─▶ restarting ─▶ running                   a process of it has died
                restarting, waking ─▶ failed ─▶ restarting                 it does not start; tried again, after longer and longer waits
                any ─▶ stopped

Requests that come while it falls asleep, sleeps, wakes or is started again wait, within their deadlines; those that come while
it has failed are told so at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from ananke_client.errors import EngineUnavailableError
from ananke_server.engine.vllm_engine import VllmEngine

logger = logging.getLogger(__name__)

WATCH_SECONDS: Final = 0.25
DRAIN_SECONDS: Final = 10.0
"""How long those whom a fault leaves alone may go on with the old engine."""
CALL_SECONDS: Final = 300.0
"""How long falling asleep or waking may take; at level 2 the weights are read from the disk."""
LONGEST_BACKOFF: Final = 60.0


class EngineState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    FALLING_ASLEEP = "falling_asleep"
    """It is letting go of its memory: with level 1 seconds, in which that cannot be had by others yet."""
    ASLEEP = "asleep"
    WAKING = "waking"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def serves(self) -> bool:
        """Whether requests are answered without waiting for a start of unknown end; to wake takes seconds."""
        return self in (EngineState.RUNNING, EngineState.FALLING_ASLEEP, EngineState.ASLEEP, EngineState.WAKING)


@dataclass(frozen=True, slots=True)
class Rest:
    """When the engine goes to sleep, and how deep."""

    idle_timeout: float | None
    """Seconds without a request; None never sleeps."""
    level: int
    """vLLM's sleep level, 1 or 2; with 0 its processes end, as they do where it cannot sleep."""


class EngineLife:
    """Keeps one engine, for the requests of one event loop.

    Args:
        start: makes a new engine that can generate; takes tens of seconds, during which it does not block the loop.
    """

    def __init__(self, start: Callable[[], Awaitable[VllmEngine]], rest: Rest) -> None:
        self.state = EngineState.STARTING
        self.last_fault: str | None = None
        """What last ended the engine, or kept it from starting."""
        self.restarts = 0
        self._start = start
        self._rest = rest
        self._engine: VllmEngine | None = None
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()
        self._waiting = self._using = 0
        self._last_use = time.monotonic()
        self._watch: asyncio.Task[None] | None = None

    async def open(self) -> VllmEngine:
        """Start for the first time. Raises: what ``start`` raises."""
        engine = await self._start()
        self._run(engine)
        self._watch = asyncio.create_task(self._live(), name="ananke-engine-life")
        return engine

    async def close(self) -> None:
        """End the engine; who waits for it is told so."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        self._enter(EngineState.STOPPED)
        await self._end()

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[VllmEngine]:
        """The engine, running, which does not go to sleep within the block. Waits for it without a bound of its own.

        Raises:
            EngineUnavailableError: it does not start.
        """
        engine = await self._awake()
        self._using += 1
        try:
            yield engine
        finally:
            self._using -= 1
            self._last_use = time.monotonic()

    @property
    def current(self) -> VllmEngine | None:
        """The engine, if there is one; it may be asleep, or have died. May be read from any thread."""
        return self._engine

    async def _awake(self) -> VllmEngine:
        self._waiting += 1
        try:
            while self.state is not EngineState.RUNNING or self._engine is None or self._engine.fault is not None:
                if self.state in (EngineState.FAILED, EngineState.STOPPED):
                    raise EngineUnavailableError(f"the engine is not there: {self.last_fault or 'the server is shutting down'}")
                self._wanted.set()
                await self._changed.wait()
            return self._engine
        finally:
            self._waiting -= 1

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                if (fault := self._fault()) is not None:
                    await self._restart(fault)
                elif self._is_idle():
                    await self._sleep()
            except Exception as error:  # the watch must not end
                logger.exception("the engine could not be put to sleep or woken")
                await self._restart(f"{type(error).__name__}: {error}")

    def _fault(self) -> str | None:
        return None if self._engine is None else self._engine.fault

    def _is_idle(self) -> bool:
        timeout = self._rest.idle_timeout
        return timeout is not None and self._waiting + self._using == 0 and time.monotonic() - self._last_use >= timeout

    async def _sleep(self) -> None:
        """Sleep until a request comes. Nothing is awaited between the question whether it is idle and the change of the state.

        An engine that dies asleep is left to the watch.
        """
        engine, level = self._engine, self._rest.level
        assert engine is not None
        self._wanted.clear()
        self._enter(EngineState.FALLING_ASLEEP)
        stays = engine.can_sleep and level > 0
        await (self._unless_it_dies(engine, engine.sleep(level)) if stays else self._end())
        self._enter(EngineState.ASLEEP)
        while not self._wanted.is_set():
            if self._fault() is not None:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), WATCH_SECONDS)
        self._enter(EngineState.WAKING)
        begun = time.monotonic()
        if not stays:
            engine = await self._started()
        elif engine.fault is None:
            await self._unless_it_dies(engine, engine.wake(level))
        logger.info("the engine woke in %.1f s", time.monotonic() - begun)
        self._run(engine)

    async def _unless_it_dies(self, engine: VllmEngine, call: Coroutine[Any, Any, None]) -> None:
        """Await a call to vLLM's process, which does not come back where that dies.

        Raises:
            EngineUnavailableError: it has died, or does not answer.
        """
        task = asyncio.create_task(call)
        end = time.monotonic() + CALL_SECONDS
        while not task.done():
            await asyncio.wait([task], timeout=WATCH_SECONDS)
            if not task.done() and (engine.fault is not None or time.monotonic() > end):
                task.cancel()
                raise EngineUnavailableError(engine.fault or f"the engine did not answer within {CALL_SECONDS:g} s")
        task.result()

    async def _restart(self, fault: str) -> None:
        self.last_fault = fault
        self.restarts += 1
        logger.error("%s: the engine is started again", fault)
        self._enter(EngineState.RESTARTING)
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._using:
                    await asyncio.sleep(WATCH_SECONDS)
        await self._end()
        begun = time.monotonic()
        self._run(await self._started())
        logger.info("the engine has started again, in %.1f s", time.monotonic() - begun)

    async def _started(self) -> VllmEngine:
        """A new engine, as soon as one starts."""
        failures = 0
        while True:
            try:
                return await self._start()
            except Exception as error:  # whatever it is, it may have gone when it is tried again
                failures += 1
                wait = min(LONGEST_BACKOFF, 2.0**failures)
                self.last_fault = f"it did not start: {type(error).__name__}: {error}"
                logger.exception("the engine did not start; again in %.0f s", wait)
                # One that was to wake is not ready any more: its requests wait for a start of unknown end.
                self.restarts += self.state is EngineState.WAKING
                self._enter(EngineState.FAILED)
                await asyncio.sleep(wait)
                self._enter(EngineState.RESTARTING)

    async def _end(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            try:
                await engine.shutdown()
            except Exception:  # what is left of it must not keep the next one from starting
                logger.exception("the engine did not end in order")

    def _run(self, engine: VllmEngine) -> None:
        self._engine = engine
        self._last_use = time.monotonic()
        self._enter(EngineState.RUNNING)

    def _enter(self, state: EngineState) -> None:
        self.state = state
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
