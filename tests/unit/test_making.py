"""Making in a thread: a start that nobody waits for any more leaves no process behind. Its processes are real, and stand for vLLM's."""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection, wait

import psutil
import pytest
from waiting import PATIENCE, SOON

from ananke_server.engine import making
from ananke_server.engine.making import made_in_thread

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


def engine(told: Connection) -> None:
    """As vLLM's: ignores a polite end while it loads, and has a worker of its own."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    told.send(subprocess.Popen(SLEEPER).pid)
    time.sleep(600)


class Start:
    """A start that ends when its process is ready, which it never is, or has died."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def __call__(self) -> str:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=engine, args=(theirs,))
        process.start()
        theirs.close()
        assert process.pid is not None
        self.pids = [process.pid, ours.recv()]
        wait([process.sentinel])
        raise RuntimeError("Engine core initialization failed")


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def never(made: object) -> None:
    raise AssertionError("nothing was made")


@pytest.mark.parametrize("cancellations", [1, 3])
def test_a_cancelled_start_takes_its_processes_along(cancellations: int) -> None:
    async def main() -> None:
        start = Start()
        other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
        other.start()
        try:
            task = asyncio.create_task(made_in_thread(start, never))
            while not start.pids:
                await asyncio.sleep(0.01)
            assert all(map(alive, start.pids))
            begun = time.monotonic()
            for _ in range(cancellations):
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - begun < SOON
            if cancellations == 1:
                assert not any(map(alive, start.pids)), "they are gone when the start has ended"
            while any(map(alive, start.pids)):
                await asyncio.sleep(0.01)
            assert alive(other.pid or 0), "a process from before the start is another's"
        finally:
            other.kill()
            other.join()

    asyncio.run(asyncio.wait_for(main(), 2 * PATIENCE))


def test_one_that_is_done_by_then_is_undone() -> None:
    undone: list[str] = []

    async def main() -> None:
        await begun_and_cancelled(undone, after=0.05)
        assert undone == ["engine"], "before the task has ended"

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_one_that_does_not_notice_is_waited_for_no_longer_than_that_and_undone_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "UNDO_SECONDS", 0.05)
    undone: list[str] = []

    async def main() -> None:
        await begun_and_cancelled(undone, after=0.01)
        assert undone == []
        while not undone:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


async def begun_and_cancelled(undone: list[str], *, after: float) -> None:
    task = asyncio.create_task(made_in_thread(functools.partial(slowly, "engine"), undone.append))
    await asyncio.sleep(after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def slowly(made: str) -> str:
    time.sleep(0.3)
    return made


def test_what_is_waited_for_is_made_or_fails() -> None:
    async def main() -> None:
        assert await made_in_thread(functools.partial(slowly, "engine"), never) == "engine"
        with pytest.raises(ZeroDivisionError):
            await made_in_thread(lambda: 1 // 0, never)

    asyncio.run(main())
