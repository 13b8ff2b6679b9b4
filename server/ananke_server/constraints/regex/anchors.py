"""Anchors: what a pattern matches once it is known where the text starts and ends.

A node's language over a span depends on two facts: whether the span's left edge is the text's start and whether its right edge is the
text's end. More facts never take a match away, which keeps the cases of concatenation and repetition few.
"""

from __future__ import annotations

from itertools import groupby, product

from ananke_server.constraints.regex.errors import RegexError
from ananke_server.constraints.regex.nodes import (
    ANYTHING,
    EMPTY,
    NOTHING,
    Alternation,
    Anchor,
    Chars,
    Concat,
    Node,
    Repeat,
    alternation,
    children,
    concat,
    is_empty,
    is_nothing,
    repeat,
)

MAX_WORK = 2_000_000
"""Nodes and class members, counted in every language on the way."""


def resolve_full(node: Node) -> Node:
    """The texts that a pattern matches from start to end, without anchors."""
    return _Resolver(node).at(node, True, True)


def resolve_search(node: Node) -> Node:
    """The texts in which a pattern matches somewhere, without anchors."""
    options = node.options if isinstance(node, Alternation) and node.anchored else (node,)
    return alternation([resolve_full(concat([ANYTHING, option, ANYTHING])) for option in options])


class _Resolver:
    """Languages by node and edges. Raises ``RegexError`` where they grow beyond ``MAX_WORK``."""

    def __init__(self, root: Node) -> None:
        self._known: dict[tuple[Node, bool, bool], Node] = {}
        self._work = 0
        for node in _inner_first(root):  # a recursion would go as deep as the pattern
            for start, end in product((False, True), repeat=2):
                self._known[node, start, end] = self._bounded(self._resolved(node, start, end))

    def at(self, node: Node, start: bool, end: bool) -> Node:
        """The language of a span whose left edge is the text's ``start``, whose right edge is its ``end``, as told."""
        return self._known[node, start, end] if node.anchored else node

    def _resolved(self, node: Node, start: bool, end: bool) -> Node:
        match node:
            case Anchor():
                return EMPTY if (start if node.side == "start" else end) else NOTHING
            case Alternation():
                return alternation([self.at(option, start, end) for option in node.options])
            case Repeat():
                return self._repeat(node, start, end)
            case Concat():
                runs = [list(run) for _, run in groupby(node.parts, key=lambda part: part.anchored)]
                parts = [part for run in runs for part in (run if run[0].anchored else [concat(run)])]
                inner: Node = EMPTY
                outer: Node = EMPTY
                for part in parts:
                    inner, outer = self._append(inner, outer, part, start)
                return outer if end else inner
            case Chars():
                return node

    def _append(self, inner: Node, outer: Node, part: Node, start: bool) -> tuple[Node, Node]:
        """A prefix lengthened by a part: where text follows (``inner``), and where it reaches the text's end (``outer``).

        The latter in four cases: both take text, the prefix takes none, the part takes none, neither does.
        """
        if not part.anchored:
            longer = concat([inner, part])
            return longer, longer if outer is inner else self._union(longer, outer if part.nullable else NOTHING)
        first = start and inner.nullable
        within, at_end = self.at(part, False, False), self.at(part, False, True)
        return self._union(
            NOTHING if first and is_empty(inner) else concat([inner, within]),
            self.at(part, True, False) if first else NOTHING,
        ), self._union(
            NOTHING if is_empty(at_end) or (first and is_empty(inner)) else concat([inner, at_end]),
            self.at(part, True, True) if first else NOTHING,
            outer if at_end.nullable else NOTHING,
            EMPTY if outer.nullable and self.at(part, start, True).nullable else NOTHING,
        )

    def _repeat(self, node: Repeat, start: bool, end: bool) -> Node:
        """No turn that takes text, one, or two and more, of which only the outer ones reach the edges.

        Turns that take none fill up the count wherever the body can be empty.
        """
        body, least, most = node.body, node.minimum, node.maximum
        if not start and not end:
            return repeat(self.at(body, False, False), least, most)
        first, last, only = self.at(body, start, False), self.at(body, False, end), self.at(body, start, end)
        filler = first.nullable or last.nullable
        none = EMPTY if least == 0 or only.nullable else NOTHING
        one = only if (least <= 1 or filler) else NOTHING
        if most is not None and most < 2:
            return self._union(none, one)
        middle = repeat(self.at(body, False, False), 0 if filler else max(least - 2, 0), None if most is None else most - 2)
        return self._union(none, one, concat([first, middle, last]))

    def _union(self, *nodes: Node) -> Node:
        kept: list[Node] = []
        for node in nodes:
            if not is_nothing(node) and node not in kept:
                kept.append(self._bounded(node))
        return self._bounded(alternation(kept))

    def _bounded(self, node: Node) -> Node:
        self._work += node.size
        if self._work > MAX_WORK:
            raise RegexError("the anchors (^, $) make this pattern too complex", 0, too_large=True, hint="put ^ first and $ last")
        return node


def _inner_first(root: Node) -> list[Node]:
    """The anchored nodes, each after those within it."""
    found: list[Node] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.anchored:
            found.append(node)
            waiting.extend(children(node))
    return list(dict.fromkeys(reversed(found)))
