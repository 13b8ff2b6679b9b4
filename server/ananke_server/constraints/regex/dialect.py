"""Dialects: what the same characters mean to ECMAScript and to Rust."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ananke_server.constraints.regex.charclass import (
    DIGITS,
    ECMA_LINE_ENDS,
    ECMA_SPACES,
    HORIZONTAL_SPACES,
    UNICODE_DIGITS,
    UNICODE_SPACES,
    UNICODE_WORD,
    WORD,
    CharClass,
)

Dialect = Literal["ecma", "rust"]


@dataclass(frozen=True)
class Meaning:
    """A dialect's character classes."""

    dialect: Dialect
    line_ends: CharClass
    """What ``.`` leaves out."""
    classes: dict[str, CharClass]
    """By the letter of their escape."""


def _classes(digit: CharClass, word: CharClass, space: CharClass) -> dict[str, CharClass]:
    positive = {"d": digit, "w": word, "s": space, "h": HORIZONTAL_SPACES}
    return positive | {letter.upper(): members.complement() for letter, members in positive.items()}


MEANINGS: dict[Dialect, Meaning] = {
    "ecma": Meaning("ecma", ECMA_LINE_ENDS, _classes(DIGITS, WORD, ECMA_SPACES)),
    "rust": Meaning("rust", CharClass.of("\n"), _classes(UNICODE_DIGITS, UNICODE_WORD, UNICODE_SPACES)),
}
