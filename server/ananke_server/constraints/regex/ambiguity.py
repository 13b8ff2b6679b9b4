"""Ambiguity: counted repetitions that the engine cannot keep apart from the turns of the repetition around them.

Seen with llguidance 1.7.6: on 600 letters ``(a{1,20}b?){1,10}`` passes, ``(a{1,100}b?){1,10}`` ends in "too many expressions", while
``([a-z]{1,63}\\.){1,127}`` costs nothing, as its dot ends each turn.
"""

from __future__ import annotations

from collections.abc import Iterator

from ananke_server.constraints.regex.charclass import ANY, NONE, CharClass
from ananke_server.constraints.regex.nodes import Alternation, Anchor, Chars, Concat, Node, Repeat


def counts_run_on(body: Node) -> bool:
    """Whether one more turn of a counted repetition at the body's end looks like the start of the body's next turn."""
    first = _first(body)
    return any(_overlap(first, _first(counted.body)) for counted in _counted_at_end(body))


def _first(node: Node) -> CharClass:
    match node:
        case Chars():
            return ANY if node.members.properties else node.members
        case Anchor():
            return NONE
        case Alternation():
            return CharClass.union([_first(option) for option in node.options])
        case Repeat():
            return _first(node.body)
        case Concat():
            found = []
            for part in node.parts:
                found.append(_first(part))
                if not part.nullable:
                    break
            return CharClass.union(found)


def _counted_at_end(node: Node) -> Iterator[Repeat]:
    match node:
        case Alternation():
            for option in node.options:
                yield from _counted_at_end(option)
        case Repeat():
            if node.maximum is not None and node.maximum > 1:
                yield node
            yield from _counted_at_end(node.body)
        case Concat():
            for part in reversed(node.parts):
                yield from _counted_at_end(part)
                if not part.nullable:
                    break


def _overlap(one: CharClass, other: CharClass) -> bool:
    return not CharClass.union([one.complement(), other.complement()]).complement().is_empty()
