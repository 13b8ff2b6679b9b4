"""What is counted of a request's masks, and what is said of it at the end."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ananke_server.masking.messages import Inbox, packed
from ananke_server.masking.tickets import Failure, MaskRecord, Outcome, Ticket

nanoseconds = st.lists(st.integers(0, 10**10), max_size=50)


def test_of_nothing_there_is_nothing_to_say() -> None:
    assert MaskRecord().outcome() == Outcome(Failure.NONE, "", 0, 0, 0.0, 0.0, 0, 0.0, 0.0)


@settings(deadline=None)
@given(nanoseconds, nanoseconds, st.integers(0, 9))
def test_an_outcome_sums_its_record_up(masks: list[int], waits: list[int], resumed: int) -> None:
    outcome = MaskRecord(resumed=resumed, mask_ns=array("Q", masks), wait_ns=array("Q", waits)).outcome()
    assert (outcome.steps, outcome.resumed) == (len(masks), resumed)
    assert outcome.under_50_us == sum(mask < 50_000 for mask in masks)
    assert outcome.us_mean == pytest.approx(sum(masks) / len(masks) / 1000 if masks else 0, abs=0.051)
    assert outcome.us_p99 == pytest.approx(np.percentile(masks, 99) / 1000 if masks else 0, abs=0.051)
    assert outcome.wait_us_mean == pytest.approx(sum(waits) / len(waits) / 1000 if waits else 0, abs=0.051)
    assert outcome.wait_us_max == pytest.approx(max(waits, default=0) / 1000, abs=0.051)


def test_the_first_failure_stands() -> None:
    record = MaskRecord()
    record.fail(Failure.DEAD_END, "first")
    record.fail(Failure.INTERNAL, "second")
    assert record.outcome()[:2] == (Failure.DEAD_END, "first")


def test_an_outcome_and_a_ticket_travel_whole() -> None:
    outcome = Outcome(Failure.TOO_COMPLEX, "é\n<>", 3, 1, 2.5, 7.1, 2, 0.4, 0.9)
    [[number, owner], values] = Inbox().take(packed([list(Ticket(2**40, 31)), list(outcome)]))[0]
    assert Ticket(number, owner) == (2**40, 31)
    assert Outcome(Failure(values[0]), *values[1:]) == outcome


messages = st.lists(st.lists(st.one_of(st.integers(-(2**40), 2**40), st.text(), st.binary(max_size=40)), max_size=4), max_size=6)


@settings(deadline=None)
@given(messages, st.data())
def test_messages_come_whole_whatever_pieces_they_come_in(sent: list[list[object]], data: st.DataObject) -> None:
    stream = b"".join(packed(message) for message in sent)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    inbox = Inbox()
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [message for piece in pieces for message in inbox.take(piece)] == sent
