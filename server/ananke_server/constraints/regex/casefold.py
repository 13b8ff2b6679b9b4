"""Case: the simple case variants of characters, as ECMAScript's flags ``iu`` and Rust's ``(?i)`` take them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from functools import lru_cache

from ananke_server.constraints.regex.charclass import CharClass

_LAST_CASED = 0x1FFFF
# Unicode 15.1 gave these simple foldings, which this Python's tables may not have.
_LATER_PAIRS = ((0x0390, 0x1FD3), (0x03B0, 0x1FE3), (0xFB05, 0xFB06))


@lru_cache(maxsize=1024)
def any_case(members: CharClass) -> CharClass:
    """The members and all their simple case variants; properties are left alone."""
    variants, cased = _variants()
    codes = [
        code
        for low, high in members.ranges
        for cased_code in cased[bisect_left(cased, low) : bisect_right(cased, high)]
        for code in variants[cased_code]
    ]
    return CharClass.union([members, CharClass.of(*codes)])


@lru_cache(maxsize=1)
def _variants() -> tuple[dict[int, list[int]], list[int]]:
    by_fold: defaultdict[str, list[int]] = defaultdict(list)
    for code in range(_LAST_CASED + 1):
        by_fold[_simple_fold(chr(code))].append(code)
    groups = [group for group in by_fold.values() if len(group) > 1]
    variants = {code: group for group in groups for code in group}
    for pair in _LATER_PAIRS:
        variants.update({code: list(pair) for code in pair})
    return variants, sorted(variants)


def _simple_fold(char: str) -> str:
    folded = char.casefold()
    if len(folded) > 1:
        folded = char.lower()
    return folded if len(folded) == 1 else char
