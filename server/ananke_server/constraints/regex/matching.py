"""Matching: a pattern against a text, all positions at once, anchors taken as they stand.

It shares nothing with the sources that are emitted but the parsed nodes. Sets of positions are the bits of an integer.
"""

from __future__ import annotations

from ananke_server.constraints.regex.charclass import CharClass
from ananke_server.constraints.regex.nodes import Alternation, Anchor, Chars, Concat, Node, Repeat


def matches_whole(node: Node, text: str) -> bool:
    return bool(_Matching(text).ends(node, 1) >> len(text))


def matches_within(node: Node, text: str) -> bool:
    return bool(_Matching(text).ends(node, (2 << len(text)) - 1))


class _Matching:
    """One text. What nested repetitions find from each position is remembered: they would else cost exponential time."""

    def __init__(self, text: str) -> None:
        self._codes = [ord(char) for char in text]
        self._members: dict[CharClass, int] = {}
        self._turns: dict[tuple[Repeat, int], int] = {}

    def ends(self, node: Node, starts: int) -> int:
        """Where matches that begin at ``starts`` end."""
        match node:
            case Chars():
                return (starts & self._positions(node.members)) << 1
            case Anchor():
                return starts & (1 if node.side == "start" else 1 << len(self._codes))
            case Alternation():
                found = 0
                for option in node.options:
                    found |= self.ends(option, starts)
                return found
            case Concat():
                for part in node.parts:
                    if not starts:
                        break
                    starts = self.ends(part, starts)
                return starts
            case Repeat():
                return self._repeat_ends(node, starts)

    def _positions(self, members: CharClass) -> int:
        """The positions whose character is a member."""
        if members not in self._members:
            self._members[members] = sum(1 << at for at, code in enumerate(self._codes) if members.contains(code))
        return self._members[members]

    def _repeat_ends(self, node: Repeat, starts: int) -> int:
        reached = starts
        for _ in range(node.minimum):
            following = self._turn_ends(node, reached)
            if following == reached:
                break
            reached = following
        found, fresh = reached, reached
        turns = len(self._codes) + 1 if node.maximum is None else node.maximum - node.minimum
        while fresh and turns:
            fresh = self._turn_ends(node, fresh) & ~found
            found |= fresh
            turns -= 1
        return found

    def _turn_ends(self, node: Repeat, starts: int) -> int:
        if not node.body.loops:
            return self.ends(node.body, starts)
        found = 0
        while starts:
            start = starts & -starts
            starts ^= start
            if (node, start) not in self._turns:
                self._turns[node, start] = self.ends(node.body, start)
            found |= self._turns[node, start]
        return found
