"""Requests by their callers' names: cancels that come early, late or never, ids that come again, leases, bounded memory."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from unittest.mock import patch

import pytest

from ananke_client.errors import CancelledError, InvalidRequestError
from ananke_server.engine.request import GenerateRequest
from ananke_server.triton.under_way import LONGEST_NAME, MEMORY_SECONDS, MOST_REMEMBERED, Entry, UnderWay


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def under_way(clock: Clock) -> UnderWay:
    return UnderWay(clock)


class Running:
    """A request that is under way until ``finish``."""

    def __init__(
        self, under_way: UnderWay, caller_id: str = "", attempt_id: str = "", lease: float | None = None, key_name: str = ""
    ) -> None:
        self.ends = 0
        self._opened = ExitStack()
        request = GenerateRequest("unique", "x", caller_id=caller_id, attempt_id=attempt_id, lease=lease, key_name=key_name)
        self.entry: Entry = self._opened.enter_context(under_way.entry(request, self._end))

    def _end(self) -> None:
        self.ends += 1

    def finish(self) -> None:
        self._opened.close()


def test_a_cancel_ends_the_request_of_that_exact_name_once(under_way: UnderWay) -> None:
    mine, other = Running(under_way, "mine", "try-1"), Running(under_way, "mine2", "try-2")
    assert (under_way.cancel("min"), mine.ends, other.ends) == (False, 0, 0)
    assert under_way.cancel("mine")
    assert under_way.cancel("try-1")
    assert (mine.ends, other.ends) == (1, 0)
    assert mine.entry.reason == "the caller cancelled the request"


@pytest.mark.parametrize("name", ["mine", "try-1"])
def test_a_cancel_that_comes_first_waits_and_ends_one_request(under_way: UnderWay, name: str) -> None:
    assert not under_way.cancel(name)
    with pytest.raises(CancelledError, match="before it came"):
        Running(under_way, "mine", "try-1")
    assert Running(under_way, "mine", "try-1").ends == 0


def test_an_early_cancel_is_forgotten(under_way: UnderWay, clock: Clock) -> None:
    assert not under_way.cancel("mine")
    clock.now += MEMORY_SECONDS
    assert Running(under_way, "mine").ends == 0


def test_a_cancel_that_comes_late_does_not_end_the_next_request_of_its_id(under_way: UnderWay, clock: Clock) -> None:
    Running(under_way, "mine").finish()
    assert not under_way.cancel("mine")
    Running(under_way, "mine").finish()
    clock.now += MEMORY_SECONDS  # long after, it can only be meant for one that comes
    assert not under_way.cancel("mine")
    with pytest.raises(CancelledError):
        Running(under_way, "mine")


def test_a_second_request_of_an_id_does_not_hide_the_first(under_way: UnderWay) -> None:
    first, second = Running(under_way, "mine", "try-1"), Running(under_way, "mine", "try-2")
    second.finish()
    assert under_way.cancel("mine")
    assert (first.ends, second.ends) == (1, 0)
    third = Running(under_way, "mine", "try-3")
    assert under_way.cancel("try-3")
    assert (first.ends, third.ends) == (1, 1)


def test_a_retry_on_its_way_is_cancelled_by_its_own_name(under_way: UnderWay) -> None:
    """The first try has ended, so its id tells nothing of the second, whose attempt id does."""
    Running(under_way, "mine", "try-1").finish()
    assert not under_way.cancel("try-2")
    with pytest.raises(CancelledError):
        Running(under_way, "mine", "try-2")


@pytest.mark.parametrize("name", ["", "a" * (LONGEST_NAME + 1)])
def test_no_id_and_long_ids_cannot_be_named(under_way: UnderWay, name: str) -> None:
    running = Running(under_way, name)
    for command in (under_way.cancel, under_way.renew):
        with pytest.raises(InvalidRequestError, match="1 to 256 characters"):
            command(name)
    assert running.ends == 0


def test_memory_is_bounded(under_way: UnderWay, clock: Clock) -> None:
    for number in range(3 * MOST_REMEMBERED):
        under_way.cancel(f"early {number}")
        Running(under_way, f"id {number}", f"try {number}").finish()
    assert len(under_way._early) == len(under_way._ended) == MOST_REMEMBERED
    assert not under_way._entries
    clock.now += MEMORY_SECONDS
    under_way.cancel("last")
    Running(under_way, "mine").finish()
    assert (len(under_way._early), len(under_way._ended)) == (1, 1)


def test_a_failed_request_leaves_too(under_way: UnderWay) -> None:
    with pytest.raises(ZeroDivisionError), under_way.entry(GenerateRequest("unique", "x", caller_id="mine"), lambda: None):
        raise ZeroDivisionError
    assert (under_way.cancel("mine"), bool(under_way._entries)) == (False, False)


async def lease_kept(seconds: float, renewals: int) -> tuple[Running, bool]:
    under_way, clock = UnderWay(), Clock()

    async def passes(seconds: float) -> None:
        clock.now += seconds
        for _ in range(3):  # so that what is due has been called
            await asyncio.sleep(0)

    with patch.object(asyncio.get_running_loop(), "time", clock):
        running = Running(under_way, "mine", "try-1", lease=seconds)
        for _ in range(renewals):
            await passes(seconds / 3)
            assert under_way.renew("try-1")
        assert running.ends == 0
        await passes(3 * seconds)
    running.finish()
    return running, under_way.renew("try-1")


@pytest.mark.parametrize("renewals", [0, 9])
def test_a_lease_ends_a_request_unless_it_is_renewed(renewals: int) -> None:
    running, known = asyncio.run(lease_kept(0.3, renewals))
    assert (running.ends, running.entry.reason, known) == (1, "its lease of 0.3 s ran out", False)


def test_a_finished_request_has_no_lease() -> None:
    async def finished() -> Running:
        running = Running(UnderWay(), "mine", lease=0.02)
        running.finish()
        await asyncio.sleep(0.1)
        return running

    assert asyncio.run(finished()).ends == 0


def test_a_command_reaches_the_requests_of_its_own_key_alone(under_way: UnderWay) -> None:
    mine, theirs = Running(under_way, "same", key_name="one"), Running(under_way, "same", key_name="two")
    assert not under_way.cancel("same")
    assert not under_way.renew("same", "three")
    assert under_way.cancel("same", "one")
    assert (mine.ends, theirs.ends) == (1, 0)
    assert not under_way.cancel("early", "one")
    Running(under_way, "early", key_name="two")
    with pytest.raises(CancelledError, match="before it came"):
        Running(under_way, "early", key_name="one")
