"""Placements: which slots of an engine's batch belong to constrained requests, and what a step asks for them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ananke_server.masking.board import ROW, Bell, Board
from ananke_server.masking.tickets import Ticket


class Asked(NamedTuple):
    """The masks that a step asks for: how many, and of which mask processes, by number and as bits."""

    masks: int
    owners: list[int]
    awaited: int


NOTHING = Asked(0, [], 0)


class Placements:
    """The constrained requests of a batch, by slot.

    A slot is whatever the engine keeps a request at between two steps: a row of the batch (vLLM's V1 runner) or a
    persistent index (V2). Slots of unconstrained requests cost nothing.
    """

    def __init__(self, board: Board, bell: Bell, *, writes: bool = True) -> None:
        """``writes``: whether this worker tells the mask processes; others of a tensor-parallel group wait for the same masks."""
        self.board = board
        self._bell = bell
        self.writes = writes
        self._placed = np.zeros(board.size.rows, dtype=ROW)
        self._guided = np.zeros(board.size.rows, dtype=np.bool_)
        self._stays = 0
        self._changes = 0
        self._last: list[tuple[tuple[int, bytes] | None, Asked]] = [(None, NOTHING)] * board.size.parts

    def __bool__(self) -> bool:
        return bool(self._guided.any())

    def place(self, slot: int, ticket: Ticket, prompt: int = 0) -> None:
        """Put a request at a slot, whoever was there before. A request that comes back after preemption is placed again."""
        self._stays += 1
        self._changes += 1
        self._placed[slot] = (ticket.number, self._stays, slot, prompt, ticket.owner)
        self._guided[slot] = True

    def remove(self, slot: int) -> None:
        """Clear a slot."""
        self._changes += 1
        self._guided[slot] = False

    def move(self, source: int, target: int) -> None:
        """Move whatever is at ``source``, nothing included, to ``target``."""
        self._changes += 1
        self._placed[target], self._guided[target] = self._placed[source], self._guided[source]
        self._placed[target]["slot"] = target
        self._guided[source] = False

    def swap(self, first: int, second: int) -> None:
        """Exchange two slots."""
        self._changes += 1
        both, other = [first, second], [second, first]
        self._placed[both], self._guided[both] = self._placed[other], self._guided[other]
        self._placed["slot"][both] = both

    def slots(self) -> NDArray[np.intp]:
        """The slots of constrained requests, ascending."""
        return np.flatnonzero(self._guided)

    def ask(self, step: int, slots: NDArray[np.intp] | NDArray[np.int32]) -> Asked:
        """Announce a step whose logits rows belong to ``slots``, ``[rows]``.

        Costs some 20 us and the foreman's bell; less where the batch is that of the step whose part of the board
        this one takes over. That step has to be over.
        """
        part = self.board.part(step)
        batch = (self._changes, slots.tobytes())
        if self._last[part][0] != batch:
            self._last[part] = batch, self._write(part, slots)
        asked = self._last[part][1]
        if asked.masks and self.writes:
            self.board.announced[part] = step
            self._bell.ring()
        return asked

    def _write(self, part: int, slots: NDArray[np.intp] | NDArray[np.int32]) -> Asked:
        rows = np.flatnonzero(self._guided[slots])
        if not len(rows):
            return NOTHING
        asked = self._placed[slots[rows]]
        if self.writes:
            board = self.board
            board.rows[part, : len(rows)] = asked
            board.masks[part, : len(rows), board.size.words] = rows
            board.counts[part] = len(rows)
        owners = np.unique(asked["owner"]).tolist()
        return Asked(len(rows), owners, sum(1 << owner for owner in owners))
