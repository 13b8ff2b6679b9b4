"""Threads in fair shares: whose turn it is, what they hand back, and their end."""

from __future__ import annotations

import asyncio
import threading

import pytest
from waiting import PATIENCE, eventually

from ananke_server.fairness.threads import FairThreads


def test_another_clients_turn_comes_before_the_rest_of_a_flood() -> None:
    async def scenario() -> None:
        threads, begun, go_on, ran = FairThreads(1, "test"), threading.Event(), threading.Event(), []

        def held() -> None:
            begun.set()
            assert go_on.wait(PATIENCE)

        flood = [asyncio.create_task(threads.run("a", held))]
        flood += [asyncio.create_task(threads.run("a", ran.append, number)) for number in range(20)]
        await asyncio.to_thread(begun.wait, PATIENCE)
        other = asyncio.create_task(threads.run("b", ran.append, "other"))
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*flood, other)
        assert ran == ["other", *range(20)]
        threads.close()

    asyncio.run(scenario())


def test_results_and_errors_are_handed_back_and_a_turn_that_failed_is_given_on() -> None:
    async def scenario() -> None:
        threads = FairThreads(1, "test")
        assert await threads.run("a", divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await threads.run("a", divmod, 1, 0)
        assert (await threads.run("b", threading.current_thread)).name.startswith("test")
        threads.close()

    asyncio.run(scenario())


def test_what_is_given_ahead_needs_no_turn_of_the_event_loop() -> None:
    async def scenario() -> None:
        single, ran, held = FairThreads(1, "test"), [], threading.Event()
        threads = single.beside(places=4)
        flood = [asyncio.create_task(threads.run("a", ran.append, number)) for number in range(4)]
        flood.append(asyncio.create_task(threads.run("a", held.set)))
        other = asyncio.create_task(threads.run("b", ran.append, "other"))
        await asyncio.sleep(0)
        # The event loop is held up here, as by a large batch's tokens.
        assert eventually(lambda: len(ran) == 4)
        assert not held.wait(0.1)
        await asyncio.gather(*flood, other)
        assert ran == [0, 1, 2, 3, "other"]
        assert await single.run("a", threading.current_thread) is await threads.run("b", threading.current_thread)
        single.close()

    asyncio.run(scenario())
