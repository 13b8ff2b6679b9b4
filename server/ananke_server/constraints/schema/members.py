"""Members: an object part written as rules of a grammar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
        return self.grammar.enclosed("{", _Members(self.grammar, part, members, other, witness).write(), "}")

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

    def write(self) -> str:
        """The rule of all members, written from the last one backwards."""
        cap = self._cap()
        after = [self._named(self._tail(count)) for count in range(cap + 1)]
        required = int(self.witness is not None) + self.part.least_others
        for index in range(len(self.members) - 1, -1, -1):
            member, needed = self.members[index]
            states = range(min(index, cap) + 1)
            # What follows this member: so many are required, and so many possible.
            left = len(self.members) - index - 1
            after = [self._named(self._state(member, needed, count, after, self._range(required, left))) for count in states]
            required += needed
        return after[0]

    def _cap(self) -> int:
        """The number of members beyond which one more makes no difference."""
        return max(1, self.part.least, 0 if self.part.most is None else self.part.most + 1)

    def _named(self, body: str) -> str:
        return self.grammar.rule(body) if body else ""

    def _range(self, required: int, left: int) -> tuple[int, int | None]:
        """The numbers of members so far with which the rest can still come out right."""
        most = None if self.part.most is None else self.part.most - required
        return (0 if self.other is not None else self.part.least - left), most

    def _state(self, member: str, needed: bool, count: int, after: list[str], can_end: tuple[int, int | None]) -> str:
        least, most = can_end
        taken_count, last = count + 1, len(after) - 1
        comma = f"{self.grammar.comma} " if count else ""
        can_take = least <= taken_count and (most is None or taken_count <= most)
        can_skip = not needed and least <= count and (most is None or count <= most)
        taken, skipped = after[min(taken_count, last)], after[min(count, last)]
        if can_take and can_skip and taken == skipped:
            return f"({comma}{member})? {skipped}"
        options = [f"{comma}{member} {taken}"] if can_take else []
        if can_skip:
            options.append(skipped or '""')
        return " | ".join(options) if options else NEVER

    def _tail(self, count: int) -> str:
        """The members beside the explicit ones."""
        least = max(self.part.least - count, self.part.least_others)
        most = None if self.part.most is None else self.part.most - count
        if self.witness is not None:
            return self._with_witness(count)
        if most is not None and most < max(0, least):
            return NEVER
        if self.other is None or most == 0:
            return NEVER if least > 0 else ""
        more = f"({self.grammar.comma} {self.other})"
        if count:
            return repeated(more, max(0, least), most)
        rest = repeated(more, max(0, least - 1), None if most is None else most - 1)
        return f"{self.other} {rest}" if least > 0 else f"({self.other} {rest})?"

    def _with_witness(self, count: int) -> str:
        comma = self.grammar.comma
        before = f"({self.other} {comma})*" if not count else f"({comma} {self.other})* {comma}"
        return f"{before} {self.witness} ({comma} {self.other})*"


NEVER = "/[^\\s\\S]/"
"""A terminal that nothing matches."""
