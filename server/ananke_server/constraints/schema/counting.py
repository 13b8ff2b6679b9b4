"""Counting: the items of an array of which some number has to meet an obligation, as an automaton."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ananke_server.constraints.schema.document import Goal
from ananke_server.constraints.schema.parts import ArrayPart, Counter

State = tuple[int, int]
"""The number of items so far, and of those among them that count."""


@dataclass(slots=True)
class Counting:
    """The states of an array part's items; ``is_open`` tells whether anything fulfils a goal."""

    part: ArrayPart
    counter: Counter
    is_open: Callable[[Goal], bool]
    _alive: dict[State, bool] = field(default_factory=dict)

    def is_final(self, state: State) -> bool:
        """Whether the array may end here."""
        length, count = state
        return length >= self.part.least and count >= self.counter.least and (self.counter.most is None or count <= self.counter.most)

    def is_alive(self, state: State) -> bool:
        """Whether the array can come to an end from here. Recurs once an item: a part counts few."""
        if state not in self._alive:
            # The only state that leads back to itself is one that adds nothing.
            self._alive[state] = False
            self._alive[state] = self.is_final(state) or any(self.is_alive(following) for _, following in self._steps(state))
        return self._alive[state]

    def steps(self, state: State) -> Iterator[tuple[Goal, State]]:
        """The goals of the next item, each with the state that follows, those that lead nowhere left out."""
        return ((goal, following) for goal, following in self._steps(state) if self.is_alive(following))

    def _steps(self, state: State) -> Iterator[tuple[Goal, State]]:
        part, (length, count) = self.part, state
        if part.most is not None and length >= part.most:
            return
        goal = part.prefix[length] if length < len(part.prefix) else part.rest
        for item, counted in self._items(goal, length, count):
            if self.is_open(item):
                yield item, self._capped(length + 1, count + counted)

    def _items(self, goal: Goal, length: int, count: int) -> list[tuple[Goal, int]]:
        if length < self.counter.start:
            return [(goal, 0)]
        if self.counter.most is None:
            enough = count >= self.counter.least
            return [(goal, 0)] if enough else [(self.part.counting(goal), 1), (goal, 0)]
        return [(self.part.counting(goal), 1), (self.part.discounting(goal), 0)]

    def _capped(self, length: int, count: int) -> State:
        """Beyond these numbers, one item more changes nothing."""
        part, counter = self.part, self.counter
        most = part.most if part.most is not None else max(1, len(part.prefix), part.least, counter.start)
        return min(length, most), min(count, counter.least if counter.most is None else counter.most + 1)
