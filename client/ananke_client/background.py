"""Work beside the calls, as blocking and as asynchronous transports do it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from ananke_client.transport import run


class BlockingBackground:
    """Work in threads, which do not keep the process alive."""

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        threading.Thread(target=lambda: run(work()), name="ananke-beside", daemon=True).start()

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)


class AsyncBackground:
    """Work in tasks of the running event loop, which are held until they end or are cancelled."""

    def __init__(self) -> None:
        self._work: set[asyncio.Task[None]] = set()

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.create_task(work(), name="ananke-beside")
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def cancel_work(self) -> None:
        """End what has not ended."""
        for task in list(self._work):
            task.cancel()
