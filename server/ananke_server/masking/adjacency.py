"""Adjacency: whether a grammar may put two of some terminals side by side, with nothing between them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

_MOST_ROUNDS = 8
"""Two suffice where no rule is recursive; each holds Python's lock."""
_PIECE = re.compile(r"\s*([A-Za-z]\w*|[()|?*+]|\{\d+(?:,\d*)?\})")


class Reach(NamedTuple):
    """Of all texts of an expression: whether one is empty, begins with such a terminal, ends with one, or has two side by side."""

    empty: bool
    begins: bool
    ends: bool
    pair: bool


_NOTHING = Reach(empty=True, begins=False, ends=False, pair=False)
_NEVER = Reach(empty=False, begins=False, ends=False, pair=False)


def may_meet(rules: Mapping[str, str], terminals: Mapping[str, bool]) -> bool:
    """Whether a text of ``start`` may have two terminals side by side that are true in ``terminals``.

    Args:
        rules: the bodies of rules, of names, brackets, ``|``, ``?``, ``*``, ``+`` and counts.
        terminals: all of them.

    Raises:
        ValueError: a body has another form or an unknown name, or it takes too long to tell.
        RecursionError: brackets are too deep.
    """
    pieces = {name: list(_pieces(body)) for name, body in rules.items()}
    bodies = {name: _Reader(of_it).read() for name, of_it in pieces.items()}
    known = {name: Reach(empty=False, begins=such, ends=such, pair=False) for name, such in terminals.items()}
    known |= dict.fromkeys(bodies, _NEVER)
    order = list(_leaves_first(pieces))
    for _ in range(_MOST_ROUNDS):
        before = dict(known)
        for name in order:
            known[name] = bodies[name].reach(known)
        if known == before:
            return any(reach.pair for reach in known.values())
    raise ValueError("the rules are too deep")


def _pieces(body: str) -> Iterator[str]:
    position, end = 0, len(body.rstrip())
    while position < end:
        if (piece := _PIECE.match(body, position)) is None:
            raise ValueError(body[position:])
        yield piece[1]
        position = piece.end()


def _leaves_first(references: Mapping[str, list[str]]) -> Iterator[str]:
    """The rules, each after those that it refers to, cycles aside. What is no rule's name is passed over."""
    seen: set[str] = set()
    for root in references:
        pending = [(root, False)]
        while pending:
            name, done = pending.pop()
            if done:
                yield name
            elif name in references and name not in seen:
                seen.add(name)
                pending += [(name, True), *((other, False) for other in references[name])]


@dataclass(frozen=True, slots=True)
class _Name:
    name: str

    def reach(self, known: Mapping[str, Reach]) -> Reach:
        if self.name not in known:
            raise ValueError(self.name)
        return known[self.name]


@dataclass(frozen=True, slots=True)
class _Sequence:
    parts: list[_Name | _Choice | _Repeat]

    def reach(self, known: Mapping[str, Reach]) -> Reach:
        whole = _NOTHING
        for part in self.parts:
            whole = _followed(whole, part.reach(known))
        return whole


@dataclass(frozen=True, slots=True)
class _Choice:
    options: list[_Sequence]

    def reach(self, known: Mapping[str, Reach]) -> Reach:
        return Reach(*map(any, zip(*(option.reach(known) for option in self.options), strict=True)))


@dataclass(frozen=True, slots=True)
class _Repeat:
    part: _Name | _Choice | _Repeat
    optional: bool
    many: bool

    def reach(self, known: Mapping[str, Reach]) -> Reach:
        once = self.part.reach(known)
        whole = _followed(once, once) if self.many else once
        return whole._replace(empty=whole.empty or self.optional)


def _followed(one: Reach, other: Reach) -> Reach:
    return Reach(
        empty=one.empty and other.empty,
        begins=one.begins or (one.empty and other.begins),
        ends=other.ends or (other.empty and one.ends),
        pair=one.pair or other.pair or (one.ends and other.begins),
    )


class _Reader:
    """Reads a rule's body, given in pieces."""

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = pieces
        self._next = 0

    def read(self) -> _Choice:
        choice = self._choice()
        if self._next < len(self._pieces):
            raise ValueError(self._pieces[self._next])
        return choice

    def _choice(self) -> _Choice:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return _Choice(options)

    def _sequence(self) -> _Sequence:
        parts: list[_Name | _Choice | _Repeat] = []
        while self._next < len(self._pieces) and self._pieces[self._next] not in ("|", ")"):
            parts.append(self._repeated())
        return _Sequence(parts)

    def _repeated(self) -> _Name | _Choice | _Repeat:
        part: _Name | _Choice | _Repeat
        if self._take("("):
            part = self._choice()
            if not self._take(")"):
                raise ValueError("a bracket is missing")
        else:
            part = _Name(self._pieces[self._next])
            self._next += 1
        while self._next < len(self._pieces) and self._pieces[self._next][0] in "?*+{":
            times = self._pieces[self._next]
            self._next += 1
            # A count that is one or none is taken for many: pairs are then found that cannot be, and none is missed.
            part = _Repeat(part, optional=times in ("?", "*") or times.startswith("{0"), many=times != "?")
        return part

    def _take(self, piece: str) -> bool:
        if self._next < len(self._pieces) and self._pieces[self._next] == piece:
            self._next += 1
            return True
        return False
