"""The nodes of a pattern, and constructors that simplify without changing the language."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from ananke_server.constraints.regex.charclass import ANY, CharClass


@dataclass(eq=False, slots=True)
class Chars:
    """One character of a class."""

    members: CharClass
    anchored: bool = field(init=False, default=False)
    nullable: bool = field(init=False, default=False)
    size: int = field(init=False)
    weight: int = field(init=False, default=1)
    loops: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.size = len(self.members.ranges) + len(self.members.properties)


@dataclass(eq=False, slots=True)
class Anchor:
    """The start or the end of the text."""

    side: Literal["start", "end"]
    anchored: bool = field(init=False, default=True)
    nullable: bool = field(init=False, default=True)
    size: int = field(init=False, default=1)
    weight: int = field(init=False, default=1)
    loops: bool = field(init=False, default=False)


@dataclass(eq=False, slots=True)
class Concat:
    """One part after another; without parts it matches the empty text."""

    parts: tuple[Node, ...]
    anchored: bool = field(init=False)
    nullable: bool = field(init=False)
    size: int = field(init=False)
    weight: int = field(init=False)
    loops: bool = field(init=False)

    def __post_init__(self) -> None:
        self.anchored = any(part.anchored for part in self.parts)
        self.nullable = all(part.nullable for part in self.parts)
        self.size = 1 + sum(part.size for part in self.parts)
        self.weight = max((part.weight for part in self.parts), default=1)
        self.loops = any(part.loops for part in self.parts)


@dataclass(eq=False, slots=True)
class Alternation:
    """One of several; without options it matches nothing."""

    options: tuple[Node, ...]
    anchored: bool = field(init=False)
    nullable: bool = field(init=False)
    size: int = field(init=False)
    weight: int = field(init=False)
    loops: bool = field(init=False)

    def __post_init__(self) -> None:
        self.anchored = any(option.anchored for option in self.options)
        self.nullable = any(option.nullable for option in self.options)
        self.size = 1 + sum(option.size for option in self.options)
        self.weight = max((option.weight for option in self.options), default=1)
        self.loops = any(option.loops for option in self.options)


@dataclass(eq=False, slots=True)
class Repeat:
    """``minimum`` to ``maximum`` times, or without an upper bound."""

    body: Node
    minimum: int
    maximum: int | None
    anchored: bool = field(init=False)
    nullable: bool = field(init=False)
    size: int = field(init=False)
    weight: int = field(init=False)
    """The product of nested repetition bounds."""
    loops: bool = field(init=False)
    """Whether it holds a repetition of more than single characters."""

    def __post_init__(self) -> None:
        self.anchored = self.body.anchored
        self.nullable = self.minimum == 0 or self.body.nullable
        self.size = 1 + self.body.size
        bound = self.minimum if self.maximum is None else self.maximum
        self.weight = self.body.weight * max(bound, 1)
        self.loops = self.body.loops or not isinstance(self.body, Chars)


Node = Chars | Anchor | Concat | Alternation | Repeat

EMPTY = Concat(())
NOTHING = Alternation(())


def is_empty(node: Node) -> bool:
    return isinstance(node, Concat) and not node.parts


def is_nothing(node: Node) -> bool:
    return isinstance(node, Alternation) and not node.options


def children(node: Node) -> tuple[Node, ...]:
    match node:
        case Concat():
            return node.parts
        case Alternation():
            return node.options
        case Repeat():
            return (node.body,)
        case _:
            return ()


def chars(members: CharClass) -> Node:
    return NOTHING if members.is_empty() else Chars(members)


def literal(text: str) -> Node:
    return concat(Chars(CharClass.of(char)) for char in text)


def concat(nodes: Iterable[Node]) -> Node:
    parts: list[Node] = []
    for node in nodes:
        if is_nothing(node):
            return NOTHING
        for part in node.parts if isinstance(node, Concat) else (node,):
            _append(parts, part)
    return parts[0] if len(parts) == 1 else Concat(tuple(parts))


def _append(parts: list[Node], part: Node) -> None:
    """Append a part; what beside ``ANYTHING`` can be empty is part of it, and no more turns than the least are needed there."""
    if part is ANYTHING:
        while parts and parts[-1].nullable and not parts[-1].anchored:
            parts.pop()
        if parts:
            parts[-1] = _least(parts[-1])
    elif parts and parts[-1] is ANYTHING:
        if part.nullable and not part.anchored:
            return
        part = _least(part)
    parts.append(part)


def _least(node: Node) -> Node:
    return repeat(node.body, node.minimum, node.minimum) if isinstance(node, Repeat) and not node.anchored else node


def alternation(nodes: Iterable[Node]) -> Node:
    options: list[Node] = []
    classes: list[CharClass] = []
    nullable = False
    for node in nodes:
        for option in node.options if isinstance(node, Alternation) else (node,):
            if is_empty(option):
                nullable = True
            elif isinstance(option, Chars) and not option.members.negated:
                classes.append(option.members)
            else:
                options.append(option)
    if classes:
        options.insert(0, chars(CharClass.union(classes)))
    if not options:
        return EMPTY if nullable else NOTHING
    united = options[0] if len(options) == 1 else Alternation(tuple(options))
    return repeat(united, 0, 1) if nullable else united


def repeat(body: Node, minimum: int, maximum: int | None) -> Node:
    if is_empty(body) or maximum == 0:
        return EMPTY
    if is_nothing(body):
        return EMPTY if minimum == 0 else NOTHING
    if body.nullable and not body.anchored:
        minimum = 0
        if maximum == 1:
            return body
    if minimum == maximum == 1:
        return body
    if isinstance(body, Repeat) and _counts_are_contiguous(body, minimum, maximum):
        most = None if maximum is None or body.maximum is None else maximum * body.maximum
        return Repeat(body.body, minimum * body.minimum, most)
    return Repeat(body, minimum, maximum)


def _counts_are_contiguous(inner: Repeat, minimum: int, maximum: int | None) -> bool:
    """Whether repeating a repetition is just a repetition: no count between the least and the most is left out."""
    if inner.anchored:
        return False
    if minimum == maximum and (inner.minimum == inner.maximum):
        return True
    if minimum == 0:
        return inner.minimum <= 1 and (inner.maximum is None or inner.maximum >= 1)
    return inner.maximum is None or minimum * inner.maximum + 1 >= (minimum + 1) * inner.minimum


ANYTHING = Repeat(Chars(ANY), 0, None)
