"""Productivity: which rules of a grammar derive some finite text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping


def productive(uses: Mapping[str, Iterable[str]], derives: Callable[[str, set[str]], bool]) -> set[str]:
    """The rules that derive a finite text. Costs an evaluation of ``derives`` a rule, and one for each use of a productive rule.

    Args:
        uses: the rules that each rule refers to.
        derives: whether a rule derives a text from the rules that are known to.
    """
    users: dict[str, list[str]] = {}
    for name, used in uses.items():
        for other in used:
            users.setdefault(other, []).append(name)
    found: set[str] = set()
    pending = list(uses)
    while pending:
        name = pending.pop()
        if name not in found and derives(name, found):
            found.add(name)
            pending.extend(users.get(name, ()))
    return found
