"""Escapes: what a backslash and what follows stand for."""

from __future__ import annotations

import re
from typing import NoReturn

from ananke_server.constraints.regex.charclass import CharClass, property_class, property_exists
from ananke_server.constraints.regex.cursor import Cursor
from ananke_server.constraints.regex.dialect import Meaning
from ananke_server.constraints.regex.errors import RegexError

_CONTROLS = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
_BRACED_HEX = re.compile(r"\{([0-9A-Fa-f]+)\}")
_HEX = {2: re.compile(r"[0-9A-Fa-f]{2}"), 4: re.compile(r"[0-9A-Fa-f]{4}"), 8: re.compile(r"[0-9A-Fa-f]{8}")}
_LOW_SURROGATE = re.compile(r"\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})")
_PROPERTY = re.compile(r"\{(\^?)((?:(?:gc|General_Category|sc|Script|scx|Script_Extensions)=)?\w+)\}", re.ASCII)
_CASED = frozenset(
    {
        "lu",
        "ll",
        "lt",
        "lc",
        "uppercaseletter",
        "lowercaseletter",
        "titlecaseletter",
        "casedletter",
        "upper",
        "lower",
        "uppercase",
        "lowercase",
    }
)
_UNSUPPORTED = {
    "b": ("a word boundary, \\b", "write out the characters that may stand beside the word"),
    "B": ("a non-boundary, \\B", "write out the characters that may stand there"),
    "k": ("a backreference", "write out the alternatives that may repeat"),
    "g": ("a backreference or subroutine call", "write the group out again"),
    "G": ("\\G", None),
    "K": ("\\K", None),
    "R": ("\\R", "write (?:\\r\\n|\\n|\\r)"),
    "X": ("\\X", "write . or a class of characters"),
    "N": ("\\N", "write . or [^\\n]"),
    "C": ("\\C", "write . or [^]"),
    "Q": ("quoting with \\Q", "escape each character with a backslash"),
    "E": ("quoting with \\E", "escape each character with a backslash"),
    "a": ("\\a", "write \\x07"),
    "e": ("\\e", "write \\x1B"),
}


def read_escape(cursor: Cursor, meaning: Meaning, *, in_class: bool, ignore_case: bool) -> int | CharClass:
    """Read what follows a backslash that was just taken: a code point or a class. Raises ``RegexError``."""
    start = cursor.offset - 1
    char = cursor.take()
    if not char:
        raise RegexError("the pattern ends with a backslash", start, hint="write \\\\ for a backslash itself")
    if char in meaning.classes:
        return meaning.classes[char]
    if char in _CONTROLS:
        return ord(_CONTROLS[char])
    if char in "xuU":
        return _hexadecimal(cursor, char, start)
    if char in "pP":
        return _property(cursor, start, negated=char == "P", ignore_case=ignore_case)
    if char == "b" and in_class:
        return 0x08
    if char == "a" and meaning.dialect == "rust":
        return 0x07
    if char == "c":
        return _control_letter(cursor, start)
    if char.isdecimal() and char.isascii():
        return _digit_escape(cursor, char, start, in_class)
    if char.isalpha() or (char == "_" and meaning.dialect == "rust"):
        _refuse_letter(char, start)
    if char in "<>" and meaning.dialect == "rust" and not in_class:
        raise RegexError(f"\\{char}, a word boundary, is not supported", start, unsupported=True)
    return ord(char)


def lone_surrogate(offset: int) -> RegexError:
    hint = "write one character, \\u{1F600}, or a range of them, [\\u{10000}-\\u{10FFFF}]"
    return RegexError("half of a surrogate pair, which stands in no text, is not supported", offset, unsupported=True, hint=hint)


def _hexadecimal(cursor: Cursor, letter: str, start: int) -> int:
    braced = cursor.match(_BRACED_HEX)
    digits = braced or cursor.match(_HEX[{"x": 2, "u": 4, "U": 8}[letter]])
    if digits is None:
        raise RegexError(f"\\{letter} is not followed by a code point", start, hint="write \\x41, \\u0041 or \\u{41}")
    code = int(digits[1] if braced else digits[0], 16)
    if code > 0x10FFFF:
        raise RegexError(f"U+{code:X} is beyond Unicode's last code point, U+10FFFF", start)
    if 0xD800 <= code <= 0xDBFF and letter == "u" and (low := cursor.match(_LOW_SURROGATE)):
        return 0x10000 + ((code - 0xD800) << 10) + int(low[1], 16) - 0xDC00
    return code


def _property(cursor: Cursor, start: int, *, negated: bool, ignore_case: bool) -> CharClass:
    braced = cursor.match(_PROPERTY)
    if braced:
        name, negated = braced[2], negated != bool(braced[1])
    elif cursor.peek().isalpha() and cursor.peek().isascii():
        name = cursor.take()
    else:
        raise RegexError("\\p is not followed by a property in braces", start, hint="write \\p{L} or \\p{Script=Greek}")
    if not property_exists(name):
        raise RegexError(f"\\p{{{name}}} is no known Unicode property", start, hint="write \\p{L}, \\p{Lu} or \\p{Script=Greek}")
    if ignore_case and name.rpartition("=")[2].replace("_", "").lower() in _CASED:
        raise RegexError(f"\\p{{{name}}} under the flag i is not supported", start, unsupported=True, hint="write \\p{L} or drop the flag")
    return property_class(name, negated)


def _control_letter(cursor: Cursor, start: int) -> int:
    letter = cursor.take()
    if not (letter.isalpha() and letter.isascii()):
        raise RegexError("\\c is not followed by a letter", start, hint="write \\cA to \\cZ, or \\\\c for a backslash and a c")
    return ord(letter) % 32


def _digit_escape(cursor: Cursor, digit: str, start: int, in_class: bool) -> int:
    if digit == "0" and not cursor.peek().isdecimal():
        return 0
    if digit == "0" or in_class:
        raise RegexError("an octal escape is not supported", start, unsupported=True, hint="write \\x and two hexadecimal digits")
    raise RegexError(f"the backreference \\{digit} is not supported", start, unsupported=True, hint="write out what may repeat")


def _refuse_letter(letter: str, start: int) -> NoReturn:
    what, hint = _UNSUPPORTED.get(letter, (f"the escape \\{letter}", f"write {letter} for the letter itself"))
    raise RegexError(f"{what} is not supported", start, unsupported=letter in _UNSUPPORTED, hint=hint)
