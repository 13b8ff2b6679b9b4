"""Sources over the body of a JSON string literal: the characters between its quotes, in canonical escape form.

Canonical: every character stands for itself, save ``\\"`` and ``\\\\``, the short escapes ``\\b \\t \\n \\f \\r``, and ``\\u00XX`` (digits
of either case) for other characters below U+0020. ``\\/`` and any other ``\\uXXXX`` are not produced.
"""

from __future__ import annotations

from ananke_server.constraints.regex.charclass import ANY
from ananke_server.constraints.regex.nodes import ANYTHING, Chars, literal, repeat
from ananke_server.constraints.regex.source import rust_source


def quoted_any() -> str:
    """The body of any string."""
    return rust_source(ANYTHING, quoted=True)


def quoted_length(minimum: int, maximum: int | None) -> str:
    """The bodies of strings of so many code points (not bytes, nor UTF-16 units).

    Raises ``ValueError`` where ``minimum`` is above ``maximum``.
    """
    if minimum < 0 or (maximum is not None and maximum < minimum):
        raise ValueError(f"no string has between {minimum} and {maximum} characters")
    return rust_source(repeat(Chars(ANY), minimum, maximum), quoted=True)


def quoted_literal(text: str) -> str:
    """The body of just this string. A lone surrogate, which no text has, raises ``ValueError``."""
    if any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        raise ValueError("a lone surrogate stands in no text")
    return rust_source(literal(text), quoted=True)
