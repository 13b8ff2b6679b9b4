"""Patterns: Python's compiled regexes as the constraint's text."""

from __future__ import annotations

import re

from ananke_client.errors import InvalidConstraintError

_INLINE = {re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s", re.VERBOSE: "x"}


def pattern_text(pattern: str | re.Pattern[str]) -> str:
    """A pattern's text, the flags of a compiled one written in front: ``(?i)``, ``m``, ``s`` and ``x``.

    The server reads the text by the constraint's dialect. Of Python's own meaning one thing differs in the dialect ``rust``:
    ``\\w`` takes combining marks too.

    Raises:
        InvalidConstraintError: the pattern is of bytes, or compiled with ``re.ASCII``, which no dialect has.
    """
    if not isinstance(pattern, re.Pattern):
        return pattern
    if not isinstance(pattern.pattern, str):
        raise InvalidConstraintError("the pattern is of bytes: compile one of str")
    flags = re.RegexFlag(pattern.flags)
    if flags & re.ASCII:
        raise InvalidConstraintError(r"the pattern has the flag re.ASCII: write [0-9] for \d, [0-9A-Za-z_] for \w, [ \t\n\r\f\v] for \s")
    letters = "".join(letter for flag, letter in _INLINE.items() if flags & flag)
    return f"(?{letters}){pattern.pattern}" if letters else pattern.pattern
