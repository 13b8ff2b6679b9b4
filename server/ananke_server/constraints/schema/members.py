"""Members: an object part written as rules of a grammar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ananke_server.constraints.schema.arrays import repeated
from ananke_server.constraints.schema.document import Goal
from ananke_server.constraints.schema.parts import NameClass, ObjectPart
from ananke_server.constraints.schema.strings import is_empty_expression, name_expression

if TYPE_CHECKING:
    from ananke_server.constraints.schema.emit import Grammar


@dataclass(slots=True)
class MemberWriter:
    """Writes object parts; ``value`` names the rule of a goal, ``is_open`` tells whether anything fulfils it."""

    grammar: Grammar
    value: Callable[[Goal], str]
    is_open: Callable[[Goal], bool]

    def write(self, part: ObjectPart) -> str:
        """The part as an expression of rules and terminals."""
        members = [
            (f"{self.grammar.key(name)} {self.value(goal)}", name in part.required)
            for name, goal in part.properties.items()
            if self.is_open(goal)
        ]
        other = self.grammar.rule(" | ".join(options)) if (options := self._others(part, part.others)) else None
        witness = self.grammar.rule(" | ".join(self._others(part, [part.witness]))) if part.witness is not None else None
        return self.grammar.enclosed("{", _Members(self.grammar, part, members, other, witness).state(0, 0), "}")

    def _others(self, part: ObjectPart, classes: list[NameClass]) -> list[str]:
        """A member for each class of other names."""
        options = []
        for other in classes:
            name = name_expression(other, part.names, part.taken)
            if self.is_open(other.goal) and not is_empty_expression(name):
                options.append(f"{self.grammar.terminal(name)} {self.grammar.colon} {self.value(other.goal)}")
        return options


@dataclass(slots=True)
class _Members:
    """A rule for each explicit member to come and the number of members so far, as far as that number matters."""

    grammar: Grammar
    part: ObjectPart
    members: list[tuple[str, bool]]
    other: str | None
    witness: str | None
    _states: dict[tuple[int, int], str] = field(default_factory=dict)

    def state(self, index: int, count: int) -> str:
        """The rule of the members from ``index`` on, after ``count`` members."""
        key = (index, min(count, self._cap))
        if key not in self._states:
            body = self._tail(key[1]) if index == len(self.members) else self._body(index, key[1])
            self._states[key] = self.grammar.rule(body) if body else ""
        return self._states[key]

    @property
    def _cap(self) -> int:
        counts = [1, self.part.least] + ([self.part.most + 1] if self.part.most is not None else [])
        return max(counts)

    def _body(self, index: int, count: int) -> str:
        member, required = self.members[index]
        comma = f"{self.grammar.comma} " if count else ""
        within = self._can_end(index + 1, count + 1)
        taken = f"{comma}{member} {self.state(index + 1, count + 1)}" if within else None
        if required:
            return taken or NEVER
        if not self._can_end(index + 1, count):
            return taken or NEVER
        if taken is not None and self.state(index + 1, count + 1) == self.state(index + 1, count):
            return f"({comma}{member})? {self.state(index + 1, count)}"
        skipped = self.state(index + 1, count) or '""'
        return f"{taken} | {skipped}" if taken is not None else skipped

    def _can_end(self, index: int, count: int) -> bool:
        """Whether the number of members can still come out right."""
        required = sum(needed for _, needed in self.members[index:])
        least_more = required + (self.witness is not None) + self.part.least_others
        most_more = None if self.other is not None else len(self.members) - index
        if self.part.most is not None and count + least_more > self.part.most:
            return False
        return most_more is None or count + most_more >= self.part.least

    def _tail(self, count: int) -> str:
        """The members beside the explicit ones."""
        least = max(self.part.least - count, self.part.least_others)
        most = None if self.part.most is None else self.part.most - count
        if self.witness is not None:
            return self._with_witness(count)
        if self.other is None or most == 0:
            return NEVER if least else ""
        more = f"({self.grammar.comma} {self.other})"
        if count:
            return repeated(more, least, most)
        rest = repeated(more, max(0, least - 1), None if most is None else most - 1)
        return f"{self.other} {rest}" if least else f"({self.other} {rest})?"

    def _with_witness(self, count: int) -> str:
        comma = self.grammar.comma
        before = f"({self.other} {comma})*" if not count else f"({comma} {self.other})* {comma}"
        return f"{before} {self.witness} ({comma} {self.other})*"


NEVER = "/[^\\s\\S]/"
"""A terminal that nothing matches."""
