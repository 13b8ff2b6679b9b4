"""Arrays: a part written as rules of a grammar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ananke_server.constraints.schema.document import Goal
from ananke_server.constraints.schema.parts import ArrayPart, Counter

if TYPE_CHECKING:
    from ananke_server.constraints.schema.emit import Grammar


@dataclass(slots=True)
class ArrayWriter:
    """Writes array parts; ``value`` names the rule of a goal, ``is_open`` tells whether anything fulfils it."""

    grammar: Grammar
    value: Callable[[Goal], str]
    is_open: Callable[[Goal], bool]

    def write(self, part: ArrayPart) -> str:
        """The part as an expression of rules and terminals."""
        body = self._plain(part) if part.counter is None else _Counting(self, part, part.counter).state(0, 0)
        return self.grammar.enclosed("[", body, "]")

    def _plain(self, part: ArrayPart) -> str:
        prefix, most = part.prefix, part.most
        for index, goal in enumerate(prefix):
            if not self.is_open(goal):
                prefix, most = prefix[:index], index if most is None else min(most, index)
                break
        tail = self._tail(part, len(prefix), most)
        for index in range(len(prefix) - 1, -1, -1):
            if most is not None and index >= most:
                tail = ""
                continue
            item = self.value(prefix[index])
            whole = " ".join(filter(None, (self.grammar.comma if index else "", item, tail)))
            tail = self.grammar.rule(whole) if index < part.least else f"({whole})?"
            if len(tail) > 2_000:
                tail = self.grammar.rule(tail)
        return tail

    def _tail(self, part: ArrayPart, start: int, most: int | None) -> str:
        """The items behind the prefix."""
        least = max(0, part.least - start)
        if (most is not None and most <= start) or not self.is_open(part.rest):
            return ""
        item, comma = self.value(part.rest), self.grammar.comma
        if start:
            return repeated(f"({comma} {item})", least, None if most is None else most - start)
        if most == 1:
            return item if least else f"({item})?"
        more = repeated(f"({comma} {item})", max(0, least - 1), None if most is None else most - 1)
        return f"{item} {more}" if least else f"({item} {more})?"


@dataclass(slots=True)
class _Counting:
    """A rule for each number of items so far, and of those among them that count."""

    writer: ArrayWriter
    part: ArrayPart
    counter: Counter
    _states: dict[tuple[int, int], str] = field(default_factory=dict)

    def state(self, length: int, count: int) -> str:
        """The rule of what follows so many items."""
        part, counter = self.part, self.counter
        # Beyond these, one item more changes nothing.
        cap = part.most if part.most is not None else max(1, len(part.prefix), part.least, counter.start)
        count_cap = counter.least if counter.most is None else counter.most + 1
        key = (min(length, cap), min(count, count_cap))
        if key not in self._states:
            self._states[key] = self.writer.grammar.reserve()
            self.writer.grammar.rules[self._states[key]] = self._body(*key)
        return self._states[key]

    def _body(self, length: int, count: int) -> str:
        part, counter, writer = self.part, self.counter, self.writer
        options = []
        if length >= part.least and count >= counter.least and (counter.most is None or count <= counter.most):
            options.append('""')
        goal = part.prefix[length] if length < len(part.prefix) else part.rest
        if part.most is None or length < part.most:
            comma = f"{writer.grammar.comma} " if length else ""
            for item, counted in self._items(goal, length, count):
                if writer.is_open(item):
                    options.append(f"{comma}{writer.value(item)} {self.state(length + 1, count + counted)}")
        # Without an option this state is a dead end, and no other leads to it on the way to a whole array.
        return " | ".join(options) if options else "/[^\\s\\S]/"

    def _items(self, goal: Goal, length: int, count: int) -> list[tuple[Goal, int]]:
        if length < self.counter.start:
            return [(goal, 0)]
        if self.counter.most is None:
            enough = count >= self.counter.least
            return [(goal, 0)] if enough else [(self.part.counting(goal), 1), (goal, 0)]
        return [(self.part.counting(goal), 1), (self.part.discounting(goal), 0)]


def repeated(item: str, least: int, most: int | None) -> str:
    """An item so many times."""
    if most is None:
        return f"{item}*" if least == 0 else f"{item}{{{least},}}"
    return "" if most == 0 else f"{item}{{{least},{most}}}"
