"""Arrays: a part written as rules of a grammar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ananke_server.constraints.schema.counting import Counting, State
from ananke_server.constraints.schema.document import Goal
from ananke_server.constraints.schema.parts import ArrayPart

if TYPE_CHECKING:
    from ananke_server.constraints.schema.emit import Grammar


NESTED = 16
"""Optional items in one rule; llguidance's parser of grammars takes no deep nesting."""

@dataclass(slots=True)
class ArrayWriter:
    """Writes array parts; ``value`` names the rule of a goal, ``is_open`` tells whether anything fulfils it."""

    grammar: Grammar
    value: Callable[[Goal], str]
    is_open: Callable[[Goal], bool]

    def write(self, part: ArrayPart) -> str:
        """The part as an expression of rules and terminals."""
        body = self._plain(part) if part.counter is None else _CountedItems(self, Counting(part, part.counter, self.is_open)).rule((0, 0))
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
            tail = whole if index < part.least else f"({whole})?"
            if index % NESTED == 0:
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
class _CountedItems:
    """A rule for each state of the items that are counted."""

    writer: ArrayWriter
    counting: Counting
    _states: dict[State, str] = field(default_factory=dict)

    def rule(self, state: State) -> str:
        """The rule of what follows in a state."""
        if state not in self._states:
            self._states[state] = self.writer.grammar.reserve()
            self.writer.grammar.rules[self._states[state]] = self._body(state)
        return self._states[state]

    def _body(self, state: State) -> str:
        options = ['""'] if self.counting.is_final(state) else []
        comma = f"{self.writer.grammar.comma} " if state[0] else ""
        options += [f"{comma}{self.writer.value(goal)} {self.rule(following)}" for goal, following in self.counting.steps(state)]
        return " | ".join(options)


def repeated(item: str, least: int, most: int | None) -> str:
    """An item so many times."""
    if most is None:
        return f"{item}*" if least == 0 else f"{item}{{{least},}}"
    return "" if most == 0 else f"{item}{{{least},{most}}}"
