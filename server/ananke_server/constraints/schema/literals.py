"""Literals: the single demands on a value of one type that a schema's keywords come down to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar

from ananke_server.constraints.regex import Regex
from ananke_server.constraints.schema.document import Goal

Judge = Callable[[Goal, Any], bool]
"""Whether a JSON value fulfils a goal."""


@dataclass(frozen=True, slots=True)
class Literal:
    """One demand; ``origin`` is the JSON pointer of the keyword that it comes from."""

    origin: str = field(compare=False)

    def holds(self, value: Any, judge: Judge) -> bool:
        """Whether a value of the literal's type meets the demand."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Values(Literal):
    """The value is, or is not, one of these; ``members`` are their canonical texts."""

    members: frozenset[str]
    values: tuple[Any, ...] = field(compare=False)
    positive: bool = True

    def holds(self, value: Any, judge: Judge) -> bool:
        return (canonical(value) in self.members) == self.positive


@dataclass(frozen=True, slots=True)
class Unsupported(Literal):
    """A keyword that could not be taken apart; whatever it demands is not demanded here."""

    reason: str
    hint: str | None = None

    def holds(self, value: Any, judge: Judge) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Bound(Literal):
    """A number is at least, or at most, ``limit``."""

    limit: Decimal
    lower: bool
    exclusive: bool

    def holds(self, value: Any, judge: Judge) -> bool:
        number = decimal(value)
        if number == self.limit:
            return not self.exclusive
        return (number > self.limit) == self.lower


@dataclass(frozen=True, slots=True)
class Integral(Literal):
    """A number is, or is not, an integer."""

    positive: bool = True

    def holds(self, value: Any, judge: Judge) -> bool:
        return is_integral(decimal(value)) == self.positive


@dataclass(frozen=True, slots=True)
class Multiple(Literal):
    """A number is, or is not, an integer multiple of ``of``."""

    of: Decimal
    positive: bool = True

    def holds(self, value: Any, judge: Judge) -> bool:
        return is_multiple(decimal(value), self.of) == self.positive


@dataclass(frozen=True, slots=True)
class Length(Literal):
    """A string has at least, and at most, so many code points."""

    least: int = 0
    most: int | None = None

    def holds(self, value: Any, judge: Judge) -> bool:
        return self.least <= len(value) and (self.most is None or len(value) <= self.most)


@dataclass(frozen=True, slots=True)
class Pattern(Literal):
    """A string contains, or does not contain, a match of ``pattern``."""

    pattern: str
    regex: Regex = field(compare=False)
    positive: bool = True
    whole: bool = True
    """Whether the pattern says all that is demanded, and does not stand for a part of it."""

    def holds(self, value: Any, judge: Judge) -> bool:
        return self.regex.searches(value) == self.positive


@dataclass(frozen=True, slots=True)
class Item(Literal):
    """The item at ``index`` fulfils ``goal``, if there is one."""

    index: int
    goal: Goal

    def holds(self, value: Any, judge: Judge) -> bool:
        return len(value) <= self.index or judge(self.goal, value[self.index])


@dataclass(frozen=True, slots=True)
class Items(Literal):
    """Every item from ``start`` on fulfils ``goal``."""

    start: int
    goal: Goal

    def holds(self, value: Any, judge: Judge) -> bool:
        return all(judge(self.goal, item) for item in value[self.start :])


@dataclass(frozen=True, slots=True)
class ItemCount(Literal):
    """An array has at least, and at most, so many items."""

    least: int = 0
    most: int | None = None

    def holds(self, value: Any, judge: Judge) -> bool:
        return self.least <= len(value) and (self.most is None or len(value) <= self.most)


@dataclass(frozen=True, slots=True)
class Contains(Literal):
    """Of the items from ``start`` on at least, and at most, so many fulfil ``goal``."""

    start: int
    goal: Goal
    least: int = 1
    most: int | None = None

    def holds(self, value: Any, judge: Judge) -> bool:
        count = sum(judge(self.goal, item) for item in value[self.start :])
        return self.least <= count and (self.most is None or count <= self.most)


@dataclass(frozen=True, slots=True)
class Unique(Literal):
    """All items of an array differ, or not all of them do."""

    positive: bool = True

    def holds(self, value: Any, judge: Judge) -> bool:
        return (len({canonical(item) for item in value}) == len(value)) == self.positive


@dataclass(frozen=True, slots=True)
class Required(Literal):
    """An object has a property of this name."""

    name: str

    def holds(self, value: Any, judge: Judge) -> bool:
        return self.name in value


@dataclass(frozen=True, slots=True)
class Property(Literal):
    """The property of this name fulfils ``goal``, if there is one."""

    name: str
    goal: Goal

    def holds(self, value: Any, judge: Judge) -> bool:
        return self.name not in value or judge(self.goal, value[self.name])


@dataclass(frozen=True, slots=True)
class Space:
    """A set of property names: those that match ``pattern``, or those that are none of ``names`` and match none of ``patterns``."""

    pattern: str | None = None
    names: frozenset[str] = frozenset()
    patterns: frozenset[str] = frozenset()
    regexes: dict[str, Regex] = field(default_factory=dict, compare=False)

    def has(self, name: str) -> bool:
        """Whether a name is in the set."""
        if self.pattern is not None:
            return self.regexes[self.pattern].searches(name)
        return name not in self.names and not any(self.regexes[pattern].searches(name) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class Properties(Literal):
    """Every property whose name is in ``space`` fulfils ``goal``."""

    space: Space
    goal: Goal

    def holds(self, value: Any, judge: Judge) -> bool:
        return all(judge(self.goal, member) for name, member in value.items() if self.space.has(name))


@dataclass(frozen=True, slots=True)
class SomeProperty(Literal):
    """At least one property whose name is in ``space`` fulfils ``goal``."""

    space: Space
    goal: Goal

    def holds(self, value: Any, judge: Judge) -> bool:
        return any(judge(self.goal, member) for name, member in value.items() if self.space.has(name))


@dataclass(frozen=True, slots=True)
class PropertyCount(Literal):
    """An object has at least, and at most, so many properties."""

    least: int = 0
    most: int | None = None

    def holds(self, value: Any, judge: Judge) -> bool:
        return self.least <= len(value) and (self.most is None or len(value) <= self.most)


@dataclass(frozen=True, slots=True)
class Names(Literal):
    """Every property's name, or, if not ``positive``, not every one, fulfils ``goal``."""

    goal: Goal
    positive: bool = True

    def holds(self, value: Any, judge: Judge) -> bool:
        return all(judge(self.goal, name) for name in value) == self.positive


_L = TypeVar("_L", bound=Literal)


def of_kind(literals: Iterable[Literal], kind: type[_L]) -> list[_L]:
    """The literals of one kind, in order."""
    return [literal for literal in literals if isinstance(literal, kind)]


def decimal(value: Any) -> Decimal:
    """A JSON number as it is written."""
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def is_integral(number: Decimal) -> bool:
    """Whether a number has no fraction."""
    return number == number.to_integral_value()


def is_multiple(number: Decimal, of: Decimal) -> bool:
    """Whether a number is an integer multiple of another."""
    numerator, denominator = number.as_integer_ratio()
    of_numerator, of_denominator = of.as_integer_ratio()
    return (numerator * of_denominator) % (denominator * of_numerator) == 0


def canonical(value: Any) -> str:
    """A text that equal JSON values share, and others do not: numbers by value, objects without order."""
    return json.dumps(_comparable(value), sort_keys=True, ensure_ascii=True)


def _comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _comparable(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    if isinstance(value, float) and value == int(value):
        return int(value)
    return value
