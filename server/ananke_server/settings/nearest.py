"""Nearest names: what someone who mistyped a name may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_MOST_TOLD = 40


def no_such(what: str, name: str, known: Iterable[str]) -> str:
    """That there is no such thing, and the known name that is like it, or all of them where they are not too many."""
    names = list(known)
    if nearest := get_close_matches(name, names, n=1, cutoff=0.5):
        return f"there is no {what} {name!r}: did you mean {nearest[0]!r}?"
    return f"there is no {what} {name!r}: " + (f"known are {', '.join(names)}" if len(names) <= _MOST_TOLD else "none is like it")
