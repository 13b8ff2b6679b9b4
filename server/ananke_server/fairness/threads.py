"""Threads for what would hold an event loop up, in fair shares."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from ananke_server.fairness.admission import Admission

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class FairThreads:
    """Threads that clients have fair shares of. Belongs to one event loop.

    Args:
        threads: how many there are; what else is to run waits for its turn, without a bound.
        name: what the threads' names begin with.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._admission = Admission(threads)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def beside(self, *, places: int) -> FairThreads:
        """The same threads, with turns of their own for what takes little time.

        Args:
            places: how much is given to the threads at a time. Where that is more than they are, they need not wait for a busy event
                loop to learn what is next; and as much of one client's may run before another's first.
        """
        other = copy.copy(self)
        other._admission = Admission(places)
        return other

    async def run(self, client: str, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """The function's result, or whatever it raises, from a thread in the client's turn."""
        async with self._admission.place(client):
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def close(self) -> None:
        """End the threads, once they are done with what they have begun; what waits for them is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)
