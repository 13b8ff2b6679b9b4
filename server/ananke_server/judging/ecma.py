"""ECMAScript's regular expressions, which JSON Schema's patterns are, in the syntax of Rust's fancy-regex.

jsonschema-rs translates by itself, but no pattern with lookaround, whose ``\\d`` and ``\\w`` would be Unicode's; ``.`` it lets match
a carriage return; and it refuses what ECMAScript allows, such as ``[^]`` and an unescaped ``{``.
"""

from __future__ import annotations

import re
from typing import NoReturn

# As it is: in drafts up to 7 the library takes ``\\x{10FFFF}`` for none of ECMAScript's.
_LAST = "\U0010ffff"
_WORD = "A-Za-z0-9_"
_SPACE = r"\t\n\x0b\x0c\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
# No class within a class, and so no complement within one: the library reads a bracket there as a character.
_SETS = {
    "d": "0-9",
    "D": rf"\x00-\x2f\x3a-{_LAST}",
    "w": _WORD,
    "W": rf"\x00-\x2f\x3a-\x40\x5b-\x5e\x60\x7b-{_LAST}",
    "s": _SPACE,
    "S": (
        r"\x00-\x08\x0e-\x1f\x21-\x9f\xa1-\u167f\u1681-\u1fff\u200b-\u2027"
        rf"\u202a-\u202e\u2030-\u205e\u2060-\u2fff\u3001-\ufefe\uff00-{_LAST}"
    ),
}
_EDGE = f"(?:(?<=[{_WORD}])(?![{_WORD}])|(?<![{_WORD}])(?=[{_WORD}]))"
_NO_EDGE = f"(?:(?<=[{_WORD}])(?=[{_WORD}])|(?<![{_WORD}])(?![{_WORD}]))"
_CONTROLS = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}

_QUANTIFIER = re.compile(r"\{[0-9]+(?:,[0-9]*)?\}")
_GROUP = re.compile(r"\((?!\?)|\(\?(?:[:=!]|<[=!]|P?<[A-Za-z_]\w*>|-?i:|i\))", re.ASCII)
_PROPERTY = re.compile(r"\\[pP]\{[A-Za-z0-9_=]+\}")
_CODE = re.compile(
    r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})|\\u\{([0-9a-fA-F]{1,6})\}|\\x([0-9a-fA-F]{2})"
)
_REFERENCE = re.compile(r"\\[1-9][0-9]?")


class UntranslatableError(ValueError):
    """The pattern is none of ECMAScript's, or one that fancy-regex has no form for."""


def translated(pattern: str) -> str:
    """The pattern of the same language. Costs a microsecond a character.

    Raises:
        UntranslatableError: there is none.
    """
    return _Translator(pattern).run()


class _Translator:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._out: list[str] = []

    def run(self) -> str:
        while self._at < len(self._pattern):
            self._out.append(self._atom())
        return "".join(self._out)

    def _atom(self) -> str:
        character = self._pattern[self._at]
        if character == "\\":
            return self._escape()
        if character == "[":
            return self._class()
        if character == "(":
            opening = self._take(_GROUP) or self._refuse("a group of this form")
            return "(" if opening.endswith(">") else opening
        if character == "{" and (quantifier := self._take(_QUANTIFIER)):
            return quantifier
        self._at += 1
        if character == ".":
            return r"[^\n\r\u2028\u2029]"
        return character if character in "^$|)*+?" else _literal(character)

    def _escape(self) -> str:
        if found := self._take(_PROPERTY) or self._take(_REFERENCE):
            return found
        name = self._pattern[self._at + 1 : self._at + 2]
        if name in ("b", "B"):
            self._at += 2
            return _EDGE if name == "b" else _NO_EDGE
        members = self._set()
        return f"[{members}]" if members else _literal(self._character())

    def _set(self) -> str | None:
        """The members of the class escape that stands here, if one does."""
        name = self._pattern[self._at + 1 : self._at + 2]
        if self._pattern[self._at] != "\\" or name not in _SETS:
            return None
        self._at += 2
        return _SETS[name]

    def _class(self) -> str:
        self._at += 1
        negated = self._pattern.startswith("^", self._at)
        self._at += negated
        members = []
        while not self._pattern.startswith("]", self._at):
            if self._at >= len(self._pattern):
                self._refuse("a class without end")
            members.append(self._members())
        self._at += 1
        if not members:
            return f"[{'' if negated else '^'}\\x00-{_LAST}]"
        return f"[{'^' if negated else ''}{''.join(members)}]"

    def _members(self) -> str:
        if found := self._take(_PROPERTY) or self._set():
            return found
        first = self._character(within_class=True)
        dash = self._pattern.startswith("-", self._at) and not self._pattern.startswith("-]", self._at)
        if not dash:
            return _literal(first)
        self._at += 1
        if self._at >= len(self._pattern):
            self._refuse("a class without end")
        if found := self._take(_PROPERTY) or self._set():
            return _literal(first) + _literal("-") + found
        last = self._character(within_class=True)
        if last < first:
            self._refuse("a range out of order")
        return f"{_literal(first)}-{_literal(last)}"

    def _character(self, *, within_class: bool = False) -> str:
        """The character that stands here, escaped or not."""
        if self._pattern[self._at] != "\\":
            self._at += 1
            return self._pattern[self._at - 1]
        if found := _CODE.match(self._pattern, self._at):
            self._at = found.end()
            if found[1]:
                return chr(0x10000 + ((int(found[1], 16) & 0x3FF) << 10) + (int(found[2], 16) & 0x3FF))
            return self._scalar(int(found[3] or found[4] or found[5], 16))
        name = self._pattern[self._at + 1 : self._at + 2]
        after = self._pattern[self._at + 2 : self._at + 3]
        self._at += 2
        if name in _CONTROLS and name:
            return _CONTROLS[name]
        if name == "c" and after.isascii() and after.isalpha():
            self._at += 1
            return chr(ord(after) % 32)
        if name == "0" and not (after.isascii() and after.isdigit()):
            return "\0"
        if name == "b" and within_class:
            return "\b"
        if name == "" or name.isalnum():
            self._refuse(f"the escape \\{name}")
        return name

    def _scalar(self, code: int) -> str:
        if 0xD800 <= code <= 0xDFFF or code > 0x10FFFF:
            self._refuse("the code of no character")
        return chr(code)

    def _take(self, form: re.Pattern[str]) -> str | None:
        found = form.match(self._pattern, self._at)
        if found is None:
            return None
        self._at = found.end()
        return found[0]

    def _refuse(self, what: str) -> NoReturn:
        raise UntranslatableError(f"the pattern {self._pattern[:80]!r} has {what} at {min(self._at, len(self._pattern))}")


def _literal(character: str) -> str:
    if character.isalnum() or ord(character) > 0xFF:
        return character
    return f"\\x{ord(character):02x}"
