"""Texts: a small language listed."""

from __future__ import annotations

from collections.abc import Iterable

from ananke_server.constraints.regex.nodes import Alternation, Anchor, Chars, Concat, Node, Repeat


class _TooManyError(Exception):
    """More texts than asked for."""


def texts_of(node: Node, limit: int) -> list[str] | None:
    """The texts of a pattern without anchors, each once, or ``None`` where there are more than ``limit``.

    Costs no more than ``limit`` texts at each node: no part of a language without dead ends has more texts than the whole.
    """
    try:
        return list(_texts(node, limit))
    except _TooManyError:
        return None


def _texts(node: Node, limit: int) -> dict[str, None]:
    match node:
        case Chars():
            return _members(node, limit)
        case Alternation():
            return _first(limit, (text for option in node.options for text in _texts(option, limit)))
        case Concat():
            found = _first(limit, [""])
            for part in node.parts:
                found = _products(found, _texts(part, limit), limit)
            return found
        case Repeat():
            return _repeated(node, limit)
        case Anchor():
            raise TypeError("resolve anchors first")


def _members(node: Chars, limit: int) -> dict[str, None]:
    if node.members.properties:
        raise _TooManyError
    return _first(limit, (chr(code) for low, high in node.members.ranges for code in range(low, high + 1)))


def _repeated(node: Repeat, limit: int) -> dict[str, None]:
    once = _texts(node.body, limit)
    if node.maximum is None:
        raise _TooManyError
    turn = _first(limit, [""])
    for _ in range(node.minimum):
        turn = _products(turn, once, limit)
    found = turn
    for _ in range(node.maximum - node.minimum):
        turn = _products(turn, once, limit)
        found = _first(limit, [*found, *turn])
    return found


def _products(left: dict[str, None], right: dict[str, None], limit: int) -> dict[str, None]:
    return _first(limit, (first + second for first in left for second in right))


def _first(limit: int, texts: Iterable[str]) -> dict[str, None]:
    found: dict[str, None] = {}
    for text in texts:
        found[text] = None
        if len(found) > limit:
            raise _TooManyError
    return found
