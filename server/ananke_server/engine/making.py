"""Making what takes long and starts processes: in a thread, and undone where nobody waits for it any more."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Final, TypeVar

import psutil

logger = logging.getLogger(__name__)

UNDO_SECONDS: Final = 10.0
"""How long what was started may take to notice that its processes are gone."""
_POLL_SECONDS: Final = 0.05
_KILL_SECONDS: Final = 5.0
Made = TypeVar("Made")


async def made_in_thread(make: Callable[[], Made], undo: Callable[[Made], None]) -> Made:
    """What ``make`` makes. Where the awaiting task is cancelled, this returns once nothing of it is left, or after ``UNDO_SECONDS``.

    The processes that ``make`` has started by then, with multiprocessing, are killed with all of theirs, which ends it within moments;
    nothing else of this process may start any so meanwhile. What it made all the same is undone.
    """
    others = set(multiprocessing.active_children())
    making = asyncio.get_running_loop().run_in_executor(None, make)
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        # Another cancellation must not keep this one from its work.
        await asyncio.shield(asyncio.create_task(_undone(making, undo, others)))
        raise


async def _undone(making: asyncio.Future[Made], undo: Callable[[Made], None], others: set[BaseProcess]) -> None:
    end = time.monotonic() + UNDO_SECONDS
    while not making.done() and time.monotonic() < end:
        for process in set(multiprocessing.active_children()) - others:
            await asyncio.to_thread(_kill, process)
        await asyncio.wait([making], timeout=_POLL_SECONDS)
    if not making.done():
        logger.warning("what was being started has no process left, and has not ended within %g s: it is undone once it has", UNDO_SECONDS)
        making.add_done_callback(partial(_undo_late, undo))
    elif (fault := making.exception()) is None:
        await asyncio.to_thread(undo, making.result())
    else:
        logger.info("what was being started has been ended: %s", type(fault).__name__)


def _undo_late(undo: Callable[[Made], None], making: asyncio.Future[Made]) -> None:
    if making.exception() is None:
        undo(making.result())


def _kill(child: BaseProcess) -> None:
    """End a process and its descendants at once. Shared memory that they leave goes with this process, whose tracker knows of it."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(child.pid)
        parent.suspend()  # so that it starts no more while they are counted
        family = [parent, *parent.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family[1:], timeout=_KILL_SECONDS)
    child.join()
