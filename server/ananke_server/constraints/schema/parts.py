"""Parts: one alternative's literals for one type of value, merged into what a grammar can be written from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import product
from typing import Any, NamedTuple

from ananke_server.constraints.regex import Regex
from ananke_server.constraints.schema.document import Goal, Obligation

MAX_ENUMERATED = 1_000
"""Multiples within bounds that are written out one by one."""


class Dropped(NamedTuple):
    """A keyword whose demand the grammar does not make."""

    origin: str
    reason: str
    hint: str | None = None


@dataclass(slots=True)
class Part:
    """Base of the parts.

    ``dropped`` lists the demands that it leaves out, ``narrowed`` those that admit values which it leaves out.
    """

    dropped: list[Dropped] = field(default_factory=list, kw_only=True)
    narrowed: list[Dropped] = field(default_factory=list, kw_only=True)


@dataclass(slots=True)
class ValuesPart(Part):
    """A finite set of values, of any type."""

    values: list[Any]


@dataclass(slots=True)
class Interval:
    """Numbers between two limits; None is no limit."""

    low: Decimal | None = None
    low_exclusive: bool = False
    high: Decimal | None = None
    high_exclusive: bool = False

    @property
    def is_empty(self) -> bool:
        if self.low is None or self.high is None:
            return False
        return self.low > self.high or (self.low == self.high and (self.low_exclusive or self.high_exclusive))

    def without(self, number: Decimal) -> list[Interval]:
        """What is left on both sides of a number."""
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            return [self]
        below = Interval(self.low, self.low_exclusive, number, True)
        above = Interval(number, True, self.high, self.high_exclusive)
        return [piece for piece in (below, above) if not piece.is_empty]


@dataclass(slots=True)
class NumberPart(Part):
    """Numbers in any of the intervals; ``integral``: whether they are integers, None where both are taken."""

    intervals: list[Interval]
    integral: bool | None = None
    multiple: Decimal | None = None


@dataclass(slots=True)
class StringPart(Part):
    """Strings by length, by patterns that they contain or not, and by texts that they are not."""

    least: int = 0
    most: int | None = None
    patterns: list[tuple[Regex, bool]] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    whole: bool = True
    """Whether these are all the strings that are demanded, and not a part of them."""


@dataclass(slots=True)
class Counter:
    """How many of the items from ``start`` on have to meet an obligation."""

    start: int
    counted: Obligation
    least: int
    most: int | None
    origin: str

    def united(self, goal: Goal, positive: bool) -> Goal:
        """A goal, and the obligation or its opposite."""
        node, wanted = self.counted
        return node.document.goal(*goal, Obligation(node, wanted == positive))


@dataclass(slots=True)
class ArrayPart(Part):
    """Arrays: a goal for each of the first items, one for the rest, the number of items, and a count among them."""

    prefix: list[Goal]
    rest: Goal
    least: int = 0
    most: int | None = None
    counter: Counter | None = None

    def counting(self, goal: Goal) -> Goal:
        """The goal of an item that is counted."""
        assert self.counter is not None
        return self.counter.united(goal, True)

    def discounting(self, goal: Goal) -> Goal:
        """The goal of an item that is not counted; where there is no upper limit to the count, it may as well be."""
        assert self.counter is not None
        return goal if self.counter.most is None else self.counter.united(goal, False)


@dataclass(slots=True)
class NameClass:
    """Property names outside the explicit ones: any of ``cases``, each a list of patterns that match or do not."""

    cases: list[list[tuple[Regex, bool]]]
    goal: Goal


@dataclass(slots=True)
class ObjectPart(Part):
    """Objects: explicit properties in order, classes of other names with their goals, and the number of properties.

    ``taken`` are the names that no class admits; ``names`` the strings that every other name has to be one of;
    ``witness`` a class of which at least one property is there.
    """

    properties: dict[str, Goal]
    required: set[str]
    taken: list[str]
    others: list[NameClass]
    names: list[StringPart] | None = None
    least: int = 0
    most: int | None = None
    witness: NameClass | None = None
    least_others: int = 0
    """How many members have to be of other names."""
    counted_at: str = ""
    """Where the number of properties is demanded."""


def cases_of(
    patterns: Iterable[str], regexes: dict[str, Regex], *, at_most_one: bool
) -> Iterator[tuple[frozenset[str], list[tuple[Regex, bool]]]]:
    """The ways in which a name can match patterns: those that match, and all of them with whether they do."""
    ordered = list(patterns)
    if at_most_one:
        truths: Iterable[tuple[bool, ...]] = [tuple(one == match for one in ordered) for match in [None, *ordered]]
    else:
        truths = product((False, True), repeat=len(ordered))
    for truth in truths:
        matching = frozenset(pattern for pattern, matches in zip(ordered, truth, strict=True) if matches)
        yield matching, [(regexes[pattern], matches) for pattern, matches in zip(ordered, truth, strict=True)]
