"""Work beside the calls, as blocking and as asynchronous transports do it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from ananke_client.deadline import Deadline
from ananke_client.stand_in import run
from ananke_client.transport import Pause


class BlockingBackground:
    """Work in threads, which do not keep the process alive."""

    def __init__(self) -> None:
        self._work: set[threading.Thread] = set()

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        def all_of_it() -> None:
            try:
                run(work())
            finally:
                self._work.discard(thread)

        thread = threading.Thread(target=all_of_it, name="ananke-beside", daemon=True)
        self._work.add(thread)
        thread.start()

    def pause(self) -> Pause:
        return _BlockingPause()

    def finish_work(self, patience: float) -> None:
        """Waits until what was begun has ended, for so many seconds at most."""
        deadline = Deadline(patience)
        for thread in list(self._work):
            thread.join(max(0.0, deadline.left()))


class _BlockingPause(Pause):
    def __init__(self) -> None:
        self._ended = threading.Event()

    async def wait(self, seconds: float) -> None:
        self._ended.wait(seconds)

    def end(self) -> None:
        self._ended.set()


class AsyncBackground:
    """Work in tasks of the running event loop, which are held until they end or are cancelled."""

    def __init__(self) -> None:
        self._work: set[asyncio.Task[None]] = set()

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.create_task(work(), name="ananke-beside")
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def pause(self) -> Pause:
        return _AsyncPause()

    async def finish_work(self, patience: float) -> None:
        """Waits until what was begun has ended, for so many seconds at most, and cancels the rest."""
        if self._work:
            _, late = await asyncio.wait(self._work, timeout=patience)
            for task in late:
                task.cancel()


class _AsyncPause(Pause):
    def __init__(self) -> None:
        self._ended = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()

    def end(self) -> None:
        self._ended.set()
