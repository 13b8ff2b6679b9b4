"""Tickets: one record's uses kept apart, and processes that see each other's writes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from masking_support import ticket_table, wait_until

from ananke_server.masking.tickets import MAX_RANKS, MESSAGE_BYTES, Failure, Outcome, Ticket, TicketOffice, TicketTable

UNTOUCHED = Outcome(Failure.NONE, "", steps=0, resumed=0, wait_ns=0, longest_wait_ns=0)


@pytest.fixture
def table() -> Iterator[TicketTable]:
    with ticket_table(3) as table:
        yield table


def test_a_new_use_starts_clean_and_late_writes_of_the_last_one_are_lost(table: TicketTable) -> None:
    first = table.open(1)
    write_all(table, first)
    second = table.open(1)
    assert (second.index, second.generation) == (1, first.generation + 1)
    assert (table.outcome(second), table.ready_ranks(second)) == (UNTOUCHED, 0)
    write_all(table, first)
    assert (table.outcome(second), table.ready_ranks(second)) == (UNTOUCHED, 0)
    write_all(table, second)
    assert (table.outcome(second).steps, table.ready_ranks(second)) == (1, 1)


def test_records_stand_apart(table: TicketTable) -> None:
    tickets = [table.open(index) for index in range(len(table))]
    write_all(table, tickets[1])
    assert [table.outcome(ticket) == UNTOUCHED for ticket in tickets] == [True, False, True]
    assert [table.ready_ranks(ticket) for ticket in tickets] == [0, 1, 0]


def test_an_outcome_counts_steps_sums_waits_and_keeps_the_longest(table: TicketTable) -> None:
    ticket = table.open(0)
    for wait_ns in (5, 2**40, 7):
        table.count_step([ticket], wait_ns)
    for _ in range(2):
        table.count_resumption(ticket)
    assert table.outcome(ticket) == Outcome(Failure.NONE, "", steps=3, resumed=2, wait_ns=2**40 + 12, longest_wait_ns=2**40)


def test_the_first_failure_stands(table: TicketTable) -> None:
    ticket = table.open(0)
    table.fail(ticket, Failure.DEAD_END, "first")
    table.fail(ticket, Failure.INTERNAL, "second")
    assert (table.outcome(ticket).failure, table.outcome(ticket).message) == (Failure.DEAD_END, "first")


@pytest.mark.parametrize("message", ["", "é", "x" * MESSAGE_BYTES, "x" * 9999, "é" * 300, "x" + "é" * 300, "xy" + "🙂" * 200, "a\udc80b"])
def test_a_message_is_cut_and_still_read(table: TicketTable, message: str) -> None:
    ticket = table.open(0)
    table.fail(ticket, Failure.INTERNAL, message)
    read = table.outcome(ticket).message
    expected = message.encode(errors="replace").decode()
    assert len(read.encode()) <= MESSAGE_BYTES + 2
    assert expected.startswith(read.removesuffix("\ufffd"))
    assert read == expected or len(read.encode()) >= MESSAGE_BYTES - 3
    assert table.outcome(table.open(0)).message == ""


def test_every_rank_is_counted_once(table: TicketTable) -> None:
    ticket = table.open(0)
    for rank in (0, MAX_RANKS - 1, 3, 3):
        table.mark_ready(ticket, rank)
    assert table.ready_ranks(ticket) == 3


def test_processes_see_each_others_writes(table: TicketTable) -> None:
    tickets = [table.open(0), table.open(1)]
    process = multiprocessing.get_context("spawn").Process(target=answer, args=(table.path, tickets))
    process.start()
    try:
        wait_until(lambda: table.ready_ranks(tickets[0]) == 1, seconds=60)
        assert table.outcome(tickets[0]) == Outcome(
            Failure.TOO_COMPLEX, "by the other process", steps=1, resumed=0, wait_ns=9, longest_wait_ns=9
        )
        table.fail(tickets[1], Failure.DEAD_END, "by this process")
        process.join(60)
        assert process.exitcode == 0
        assert table.outcome(tickets[1]).steps == 1
    finally:
        process.kill()


def answer(path: Path, tickets: list[Ticket]) -> None:
    """A worker of its own: writes to the first ticket, and to the second once this side has."""
    table = TicketTable(path)
    table.count_step([tickets[0]], 9)
    table.fail(tickets[0], Failure.TOO_COMPLEX, "by the other process")
    table.mark_ready(tickets[0], 7)
    wait_until(lambda: table.outcome(tickets[1]).message == "by this process", seconds=60)
    table.count_step([tickets[1]], 1)


def test_a_table_outlives_its_file_where_it_is_open() -> None:
    table = TicketTable.create(1)
    other = TicketTable(table.path)
    table.unlink()
    table.unlink()
    assert not table.path.exists()
    ticket = table.open(0)
    other.mark_ready(ticket, 0)
    assert table.ready_ranks(ticket) == 1


def test_an_office_gives_every_ticket_out_once_and_again_when_it_is_back(table: TicketTable) -> None:
    office = TicketOffice(table)
    tickets = [office.take() for _ in range(4)]
    assert tickets[3] is None
    taken = [ticket for ticket in tickets if ticket is not None]
    assert {ticket.index for ticket in taken} == {0, 1, 2}
    office.give_back(taken[1])
    again = office.take()
    assert again == Ticket(taken[1].index, taken[1].generation + 1)
    assert office.take() is None


def test_an_office_gives_no_ticket_to_two_threads() -> None:
    with ticket_table(200) as table, ThreadPoolExecutor(8) as threads:
        office = TicketOffice(table)
        tickets = list(threads.map(lambda _: office.take(), range(250)))
    indices = [ticket.index for ticket in tickets if ticket is not None]
    assert sorted(indices) == list(range(200))


def write_all(table: TicketTable, ticket: Ticket) -> None:
    table.mark_ready(ticket, 2)
    table.count_step([ticket], 4)
    table.count_resumption(ticket)
    table.fail(ticket, Failure.INTERNAL, "broken")
