"""Emission: definitions written as a Lark grammar for llguidance.

White space stands within the terminals of JSON's punctuation, so that the grammar needs no ``%ignore`` and can be merged
with others. Properties come in the schema's order, other names after them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from ananke_server.constraints.schema import numbers
from ananke_server.constraints.schema.arrays import ArrayWriter
from ananke_server.constraints.schema.build import Definitions
from ananke_server.constraints.schema.document import ANY, Goal
from ananke_server.constraints.schema.members import MemberWriter
from ananke_server.constraints.schema.parts import ArrayPart, NameClass, NumberPart, ObjectPart, Part, StringPart, ValuesPart
from ananke_server.constraints.schema.strings import ANY_STRING, expression, literal

Whitespace = Literal["flexible", "compact"]

_ANY_SCALAR = f"/null|true|false|{numbers.NUMBER}/ | {ANY_STRING}"


@dataclass(slots=True)
class Grammar:
    """Rules and terminals by name, each body written once."""

    whitespace: Whitespace
    rules: dict[str, str] = field(default_factory=dict)
    _terminals: dict[str, str] = field(default_factory=dict)
    _bodies: dict[str, str] = field(default_factory=dict)
    _count: int = 0

    def text(self) -> str:
        """The grammar, its rule ``start`` first."""
        lines = [f"{name}: {body}" for name, body in self.rules.items()]
        return "\n".join([*lines, *(f"{name}: {body}" for body, name in self._terminals.items()), ""])

    def terminal(self, body: str) -> str:
        """The name of the terminal with this expression."""
        return self._terminals.setdefault(body, f"T{len(self._terminals)}")

    def rule(self, body: str) -> str:
        """The name of a rule with this body."""
        if body not in self._bodies:
            self._bodies[body] = self.reserve()
            self.rules[self._bodies[body]] = body
        return self._bodies[body]

    def reserve(self) -> str:
        """A name for a rule whose body comes later."""
        self._count += 1
        return f"r{self._count}"

    def mark(self, before: str, character: str, after: str) -> str:
        """The terminal of one of JSON's marks, with white space where ``before`` or ``after`` says."""
        space = r"[ \n\r\t]*" if self.whitespace == "flexible" else ""
        return self.terminal(f"/{before and space}\\{character}{after and space}/")

    @property
    def comma(self) -> str:
        return self.mark("space", ",", "space")

    @property
    def colon(self) -> str:
        return self.mark("space", ":", "space")

    def key(self, name: str) -> str:
        """A property's name and its colon. The colon is a terminal of its own, so that every kind of name ends at its quote."""
        return f"{self.terminal(literal(name))} {self.colon}"

    def enclosed(self, opening: str, body: str, closing: str) -> str:
        """A body between brackets."""
        return " ".join(filter(None, (self.mark("", opening, "space"), body, self.mark("space", closing, ""))))


def emit(definitions: Definitions, whitespace: Whitespace) -> str:
    """The grammar's text; its first rule is ``start``."""
    return _Emitter(definitions, Grammar(whitespace)).emit()


@dataclass(slots=True)
class _Emitter:
    definitions: Definitions
    grammar: Grammar
    _names: dict[Goal, str] = field(default_factory=dict)
    _pending: list[Goal] = field(default_factory=list)

    def emit(self) -> str:
        self.grammar.rules["start"] = ""
        self.grammar.rules["start"] = self.value(self.definitions.root)
        while self._pending:
            goal = self._pending.pop()
            self.grammar.rules[self._names[goal]] = self._body(goal)
        return self.grammar.text()

    def value(self, goal: Goal) -> str:
        """The rule of the values that fulfil a goal."""
        if goal not in self._names:
            self._names[goal] = self.grammar.reserve()
            self._pending.append(goal)
        return self._names[goal]

    def is_open(self, goal: Goal) -> bool:
        """Whether any value fulfils a goal."""
        return goal == ANY or goal in self.definitions.parts

    def _body(self, goal: Goal) -> str:
        if goal == ANY:
            array = ArrayWriter(self.grammar, self.value, self.is_open).write(ArrayPart([], ANY))
            members = MemberWriter(self.grammar, self.value, self.is_open).write(ObjectPart({}, set(), [], [NameClass([[]], ANY)]))
            return f"{self.grammar.terminal(_ANY_SCALAR)} | {array} | {members}"
        scalars: list[str] = []
        others: list[str] = []
        for part in self.definitions.parts[goal]:
            self._write(part, scalars, others)
        if scalars:
            others.insert(0, self.grammar.terminal(" | ".join(dict.fromkeys(scalars))))
        return " | ".join(dict.fromkeys(others))

    def _write(self, part: Part, scalars: list[str], others: list[str]) -> None:
        match part:
            case ValuesPart():
                for value in part.values:
                    (others if isinstance(value, list | dict) else scalars).extend(self._written(value))
            case NumberPart() if part.multiple is not None:
                others.extend(self._multiples(part))
            case NumberPart():
                scalars.extend(numbers.expression(interval, part.integral) for interval in part.intervals)
            case StringPart():
                scalars.append(expression(part))
            case ArrayPart():
                others.append(ArrayWriter(self.grammar, self.value, self.is_open).write(part))
            case ObjectPart():
                others.append(MemberWriter(self.grammar, self.value, self.is_open).write(part))

    def _multiples(self, part: NumberPart) -> list[str]:
        """Multiples on both sides of zero, since llguidance has those above it alone."""
        [interval] = part.intervals
        assert part.multiple is not None
        written = []
        for sign, low, high in (("", interval.low, interval.high), ('"-" ', _negated(interval.high), _negated(interval.low))):
            if high is not None and high < 0:
                continue
            schema = {"type": "integer" if part.integral else "number", "multipleOf": _plain(part.multiple)}
            schema["minimum"] = 0 if low is None else _plain(max(low, Decimal(0)))
            if high is not None:
                schema["maximum"] = _plain(high)
            written.append(sign + self.grammar.rule(f"%json {json.dumps(schema)}"))
        return written

    def _written(self, value: Any) -> list[str]:
        """A constant's texts: numbers that are integers are written with and without a fraction if the schema has one."""
        match value:
            case str():
                return [literal(value)]
            case float() if value == int(value):
                return [json.dumps(str(int(value))), json.dumps(json.dumps(value))]
            case dict() | list():
                return [self._written_whole(value)]
        return [json.dumps(json.dumps(value))]

    def _written_whole(self, value: dict[str, Any] | list[Any]) -> str:
        grammar = self.grammar
        if isinstance(value, list):
            items = f" {grammar.comma} ".join(self._one_text(item) for item in value)
            return grammar.enclosed("[", items, "]")
        members = f" {grammar.comma} ".join(f"{grammar.key(name)} {self._one_text(member)}" for name, member in value.items())
        return grammar.enclosed("{", members, "}")

    def _one_text(self, value: Any) -> str:
        texts = self._written(value)
        return texts[0] if isinstance(value, dict | list) else self.grammar.terminal(" | ".join(texts))


def _negated(limit: Decimal | None) -> Decimal | None:
    return None if limit is None else -limit


def _plain(number: Decimal) -> int | float:
    return int(number) if number == int(number) else float(number)

