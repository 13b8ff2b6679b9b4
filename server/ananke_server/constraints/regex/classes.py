"""Classes: what stands between brackets."""

from __future__ import annotations

import re

from ananke_server.constraints.regex.casefold import any_case
from ananke_server.constraints.regex.charclass import SURROGATES, CharClass
from ananke_server.constraints.regex.cursor import Cursor
from ananke_server.constraints.regex.dialect import Meaning
from ananke_server.constraints.regex.errors import RegexError
from ananke_server.constraints.regex.escapes import lone_surrogate, read_escape

MAX_NESTING = 20
_POSIX = re.compile(r"\[:(\^?)([a-z]+):\]")
_POSIX_CLASSES = {
    "alnum": CharClass.of((0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A)),
    "alpha": CharClass.of((0x41, 0x5A), (0x61, 0x7A)),
    "ascii": CharClass.of((0x00, 0x7F)),
    "blank": CharClass.of("\t "),
    "cntrl": CharClass.of((0x00, 0x1F), 0x7F),
    "digit": CharClass.of((0x30, 0x39)),
    "graph": CharClass.of((0x21, 0x7E)),
    "lower": CharClass.of((0x61, 0x7A)),
    "print": CharClass.of((0x20, 0x7E)),
    "punct": CharClass.of((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)),
    "space": CharClass.of((0x09, 0x0D), " "),
    "upper": CharClass.of((0x41, 0x5A)),
    "word": CharClass.of((0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A), "_"),
    "xdigit": CharClass.of((0x30, 0x39), (0x41, 0x46), (0x61, 0x66)),
}


def read_class(cursor: Cursor, meaning: Meaning, ignore_case: bool) -> CharClass:
    """Read a class whose ``[`` was just taken. Raises ``RegexError``."""
    return _ClassReader(cursor, meaning, ignore_case).read(1)


class _ClassReader:
    def __init__(self, cursor: Cursor, meaning: Meaning, ignore_case: bool) -> None:
        self._cursor = cursor
        self._meaning = meaning
        self._ignore_case = ignore_case
        self._rust = meaning.dialect == "rust"

    def read(self, nesting: int) -> CharClass:
        cursor = self._cursor
        opened = cursor.offset - 1
        if nesting > MAX_NESTING:
            raise RegexError(f"classes are nested more than {MAX_NESTING} deep", opened, too_large=True)
        negated = cursor.skip("^")
        items: list[tuple[int, CharClass]] = []
        if self._rust and cursor.sees("]"):
            items.append((cursor.offset, CharClass.of(cursor.take())))
        while not cursor.skip("]"):
            if cursor.at_end():
                raise RegexError("the class is not closed", opened, hint="close it with ], or write \\[ for a bracket itself")
            items.append((cursor.offset, self._item(nesting, negated)))
        return self._united(items, negated)

    def _united(self, items: list[tuple[int, CharClass]], negated: bool) -> CharClass:
        for offset, item in items:
            if item.negated:
                raise RegexError("this class cannot be combined with others", offset, unsupported=True)
        members = CharClass.union([item for _, item in items])
        if self._ignore_case:
            members = any_case(members)
        return members.complement() if negated else members

    def _item(self, nesting: int, negated: bool) -> CharClass:
        cursor = self._cursor
        start = cursor.offset
        if cursor.sees("[") and (found := self._bracket(start, nesting)) is not None:
            return found
        if self._rust and any(cursor.sees(operator) for operator in ("&&", "--", "~~")):
            raise RegexError("a set operation within a class is not supported", start, unsupported=True)
        low = high = self._atom()
        if isinstance(low, int) and cursor.sees("-") and not cursor.sees("-]"):
            dash = cursor.offset
            cursor.skip("-")
            high = self._atom()
            if isinstance(high, CharClass):  # no range: the dash stands for itself
                low, high, cursor.offset = low, low, dash
        if isinstance(low, CharClass):
            return low
        assert isinstance(high, int)
        if low > high:
            raise RegexError("the range is out of order", start, hint="put the lower character first, or escape the dash: \\-")
        if not negated and SURROGATES[0] <= low and high <= SURROGATES[1]:
            raise lone_surrogate(start)
        return CharClass.of((low, high))

    def _bracket(self, start: int, nesting: int) -> CharClass | None:
        """What a bracket within the class opens; ``None`` where it is just a bracket."""
        posix = self._cursor.match(_POSIX)
        if posix and not self._rust:
            hint = "write the characters out, as in [A-Za-z], or \\p{L}"
            raise RegexError("a POSIX class within a class is not supported", start, unsupported=True, hint=hint)
        if posix:
            if posix[2] not in _POSIX_CLASSES:
                raise RegexError(f"there is no class {posix[0]}", start, hint=f"one of {', '.join(_POSIX_CLASSES)}")
            return _POSIX_CLASSES[posix[2]].complement() if posix[1] else _POSIX_CLASSES[posix[2]]
        if not self._rust:
            return None
        self._cursor.skip("[")
        return self.read(nesting + 1)

    def _atom(self) -> int | CharClass:
        char = self._cursor.take()
        if char != "\\":
            return ord(char) if char else CharClass(())
        return read_escape(self._cursor, self._meaning, in_class=True, ignore_case=self._ignore_case)
