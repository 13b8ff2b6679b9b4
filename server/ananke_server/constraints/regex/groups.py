"""Groups: what an opening parenthesis opens, and the flags within."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from ananke_server.constraints.regex.cursor import Cursor
from ananke_server.constraints.regex.dialect import Dialect
from ananke_server.constraints.regex.errors import RegexError

_NAME = re.compile(r"P?<[^\W\d][\w.\[\]$]*>|<\$[\w$]*>")
_FLAGS = re.compile(r"([a-zA-Z]*)(-[a-zA-Z]*)?([:)])")
_FIELDS = {"i": "ignore_case", "s": "dot_all", "m": "multi_line", "x": "verbose"}
_LOOKAROUND_HINT = "write out what may follow or stand before, or check it apart from the pattern"
_UNSUPPORTED = {
    "=": ("a lookahead, (?=", _LOOKAROUND_HINT),
    "!": ("a negative lookahead, (?!", _LOOKAROUND_HINT),
    "<=": ("a lookbehind, (?<=", _LOOKAROUND_HINT),
    "<!": ("a negative lookbehind, (?<!", _LOOKAROUND_HINT),
    ">": ("an atomic group, (?>", "write (?: instead: nothing here backtracks"),
    "|": ("a branch reset group, (?|", "write (?: instead"),
    "(": ("a conditional, (?(", "write out the alternatives"),
    "P=": ("a backreference, (?P=", "write out what may repeat"),
    "P>": ("a subroutine call, (?P>", "write the group out again"),
    "&": ("a subroutine call, (?&", "write the group out again"),
    "R": ("recursion, (?R", "use a grammar instead"),
    "'": ("a group named with quotes, (?'", "write (?<name>"),
}
_CALL = re.compile(r"[+-]?[0-9]+\)")


@dataclass(frozen=True, slots=True)
class Flags:
    """What inline flags have switched on."""

    ignore_case: bool = False
    dot_all: bool = False
    multi_line: bool = False
    verbose: bool = False


class Opened(NamedTuple):
    """An opened group's flags, and whether a body follows: after ``(?i)`` and a comment none does."""

    flags: Flags
    has_body: bool


def read_group(cursor: Cursor, dialect: Dialect, flags: Flags) -> Opened:
    """Read what follows a ``(`` that was just taken, up to the group's body. Raises ``RegexError``."""
    start = cursor.offset - 1
    if cursor.sees("*"):
        raise RegexError("a backtracking verb, (*, is not supported", start, unsupported=True)
    if not cursor.skip("?"):
        return Opened(flags, True)
    for opening, (what, hint) in _UNSUPPORTED.items():
        if cursor.sees(opening):
            raise RegexError(f"{what}, is not supported", start, unsupported=True, hint=hint)
    if _CALL.match(cursor.pattern, cursor.offset):
        raise RegexError("a subroutine call is not supported", start, unsupported=True, hint="write the group out again")
    if cursor.sees("#"):
        return _skip_comment(cursor, start, flags)
    if cursor.match(_NAME):
        return Opened(flags, True)
    found = cursor.match(_FLAGS)
    if found is None:
        raise RegexError("this group is malformed", start, hint="write (?:...), (?<name>...) or (?i:...)")
    flags = _with_flags(flags, found[1], found[2] or "", dialect, start)
    return Opened(flags, found[3] == ":")


def _skip_comment(cursor: Cursor, start: int, flags: Flags) -> Opened:
    while (char := cursor.take()) != ")":
        if not char:
            raise RegexError("the comment is not closed", start)
    return Opened(flags, False)


def _with_flags(flags: Flags, on: str, off: str, dialect: Dialect, start: int) -> Flags:
    for letter in on + off.lstrip("-"):
        # Greediness and Unicode, which is on anyway, change no language.
        if letter not in _FIELDS and not (dialect == "rust" and (letter == "U" or (letter == "u" and letter in on))):
            hint = "i and s are supported, m where there is no ^ or $"
            raise RegexError(f"the flag {letter} is not supported", start, unsupported=True, hint=hint)
    switched = {_FIELDS[letter]: True for letter in on if letter in _FIELDS}
    switched |= {_FIELDS[letter]: False for letter in off if letter in _FIELDS}
    return replace(flags, **switched)
