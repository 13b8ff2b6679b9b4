"""Placements: slots that are taken, left and exchanged, and what a step writes on the board for them."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ananke_server.masking.board import PARTS, Bell, Board, BoardFile, Size
from ananke_server.masking.placements import NOTHING, Asked, Placements
from ananke_server.masking.tickets import Ticket

SLOTS = 6
PROCESSES = 3
WORDS = 2


@dataclass
class Desk:
    """A board, some placements on it, and the bell that they ring."""

    file: BoardFile = field(default_factory=lambda: BoardFile.create(Size(SLOTS, WORDS, PROCESSES)))

    def __post_init__(self) -> None:
        self.board = self.file.board()
        self.placements = self.other(writes=True)

    def other(self, *, writes: bool) -> Placements:
        return Placements(self.board, Bell(self.file.bell[1]), writes=writes)

    def rung(self) -> int:
        """How often the foreman's bell rang since the last call."""
        heard, _, _ = select.select([self.file.bell[0]], [], [], 0)
        return len(os.read(self.file.bell[0], 100)) if heard else 0


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.file.close()


def snapshot(board: Board) -> list[bytes]:
    return [array.tobytes() for array in (board.rows, board.masks, board.counts, board.announced, board.done, board.arrived)]


def asked_tickets(desk: Desk, step: int, slots: list[int]) -> dict[int, int]:
    """By logits row the tickets that a step asks masks for."""
    asked = desk.placements.ask(step, np.array(slots, dtype=np.int32))
    rows = desk.board.rows[step % PARTS, : asked.masks]
    places = desk.board.masks[step % PARTS, : asked.masks, WORDS]
    assert [slots[place] for place in places] == rows["slot"].tolist()
    return dict(zip(places.tolist(), rows["ticket"].tolist(), strict=True))


def test_slots_are_placed_moved_swapped_and_removed(desk: Desk) -> None:
    placements = desk.placements
    assert not placements
    everything = list(range(SLOTS))

    def placed() -> dict[int, int]:
        assert placements.slots().tolist() == sorted(asked_tickets(desk, 1, everything))
        assert bool(placements) == bool(len(placements.slots()))
        return asked_tickets(desk, 1, everything)

    first, second, third = (Ticket(number, number % PROCESSES) for number in (11, 12, 13))
    for slot, ticket in ((0, first), (1, second), (1, third), (5, second)):
        placements.place(slot, ticket)
    assert placed() == {0: 11, 1: 13, 5: 12}
    placements.move(5, 0)
    assert placed() == {0: 12, 1: 13}
    placements.move(4, 1)
    assert placed() == {0: 12}
    placements.swap(0, 3)
    assert placed() == {3: 12}
    placements.place(0, first)
    placements.swap(3, 0)
    assert placed() == {0: 12, 3: 11}
    placements.swap(1, 2)
    placements.remove(0)
    placements.remove(0)
    assert placed() == {3: 11}
    placements.remove(3)
    assert placed() == {}


def test_a_step_announces_its_constrained_rows_to_the_foreman(desk: Desk) -> None:
    board, placements = desk.board, desk.placements
    board.rows["ticket"] = 99
    board.masks[:] = 77
    placements.place(4, Ticket(2**40, 2), prompt=9)
    placements.place(1, Ticket(8, 0), prompt=3)
    placements.place(2, Ticket(7, 1))
    assert placements.ask(6, np.array([3, 1, 0, 4])) == Asked(2, [0, 2], 0b101)
    assert desk.rung() == 1
    assert board.counts.tolist() == [2, 0, 0]
    assert board.rows[0, :2].tolist() == [(8, 2, 1, 3, 0), (2**40, 1, 4, 9, 2)]
    assert board.masks[0, :2, WORDS].tolist() == [1, 3]
    assert board.announced.tolist() == [6, 0, 0]
    assert (board.rows[0, 2:]["ticket"] == 99).all()
    assert (board.masks[0, :, :WORDS] == 77).all(), "the masks themselves are for others to write"
    assert (board.masks[1:] == 77).all()
    assert placements.ask(7, np.array([2])) == Asked(1, [1], 0b10)
    assert desk.rung() == 1
    assert board.announced.tolist() == [6, 7, 0]
    assert board.counts.tolist() == [2, 1, 0]


@pytest.mark.parametrize("slots", [[], [0], [0, 3, 5]])
def test_a_step_without_constrained_rows_writes_and_rings_nothing(desk: Desk, slots: list[int]) -> None:
    desk.placements.place(2, Ticket(1, 1))
    before = snapshot(desk.board)
    assert desk.placements.ask(3, np.array(slots, dtype=np.int32)) is NOTHING
    assert snapshot(desk.board) == before
    assert desk.rung() == 0


def test_a_request_placed_again_has_another_stay(desk: Desk) -> None:
    stays = []
    for step, slot in enumerate((3, 3, 1), start=1):
        desk.placements.place(slot, Ticket(5, 1))
        desk.placements.ask(step, np.array([slot]))
        desk.placements.ask(step, np.array([slot]))
        stays.append(int(desk.board.rows[step % PARTS, 0]["placement"]))
    assert len({*stays}) == 3
    assert 0 not in stays, "which says that there was none before"
    desk.placements.move(1, 2)
    desk.placements.swap(2, 4)
    desk.placements.ask(5, np.array([4]))
    assert desk.board.rows[5 % PARTS, 0].tolist() == (5, stays[-1], 4, 0, 1), "a request that moves stays in the batch"


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_steps_announce_what_a_list_of_slots_says_and_silent_workers_agree(data: st.DataObject) -> None:
    desk = Desk()
    try:
        silent = desk.other(writes=False)
        slots: list[Ticket | None] = [None] * SLOTS
        slot = st.integers(0, SLOTS - 1)
        for step in range(1, data.draw(st.integers(2, 8))):
            for action in data.draw(st.lists(st.sampled_from(["place", "remove", "move", "swap"]), max_size=4)):
                first, second = data.draw(slot), data.draw(slot)
                if action == "place":
                    ticket = Ticket(100 * step + first, second % PROCESSES)
                    slots[first] = ticket
                    for worker in (desk.placements, silent):
                        worker.place(first, ticket, second)
                elif action == "remove":
                    slots[first] = None
                    for worker in (desk.placements, silent):
                        worker.remove(first)
                elif first != second:
                    slots[second], slots[first] = slots[first], slots[second] if action == "swap" else None
                    for worker in (desk.placements, silent):
                        getattr(worker, action)(first, second)
            order = data.draw(st.permutations(range(SLOTS)))[: data.draw(st.integers(0, SLOTS))]
            rows = [(row, slots[at], at) for row, at in enumerate(order) if slots[at] is not None]
            before = snapshot(desk.board)
            desk.rung()
            quiet = silent.ask(step, np.array(order, dtype=np.int64))
            assert (snapshot(desk.board), desk.rung()) == (before, 0)
            asked = desk.placements.ask(step, np.array(order, dtype=np.int64))
            assert quiet == asked
            owners = sorted({ticket.owner for _, ticket, _ in rows if ticket})
            assert asked == (len(rows), owners, sum(1 << owner for owner in owners))
            assert desk.rung() == bool(rows)
            written = desk.board.rows[step % PARTS, : len(rows)]
            assert written[["ticket", "owner", "slot"]].tolist() == [(*ticket, at) for _, ticket, at in rows if ticket]
            assert desk.board.masks[step % PARTS, : len(rows), WORDS].tolist() == [row for row, _, _ in rows]
            if rows:
                assert desk.board.counts[step % PARTS] == len(rows)
                assert desk.board.announced[step % PARTS] == step
    finally:
        desk.file.close()
