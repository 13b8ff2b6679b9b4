"""CharClass: a set of Unicode scalar values, as ranges and properties."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from llguidance import LLMatcher, LLTokenizer

Range = tuple[int, int]
LAST = 0x10FFFF
SURROGATES: Range = (0xD800, 0xDFFF)
_SCALARS: tuple[Range, ...] = ((0, SURROGATES[0] - 1), (SURROGATES[1] + 1, LAST))


@dataclass(frozen=True, slots=True, order=True)
class Property:
    """A Unicode property by its name in Rust, as in ``\\p{Script=Greek}``."""

    name: str
    negated: bool = False

    def source(self) -> str:
        return f"\\{'P' if self.negated else 'p'}{{{self.name}}}"

    def inverse(self) -> Property:
        return Property(self.name, not self.negated)


@dataclass(frozen=True, slots=True)
class CharClass:
    """``ranges`` and ``properties`` united, or all else where ``negated``. Surrogates are never members.

    Without properties it is in normal form: not negated, ranges sorted and apart.
    """

    ranges: tuple[Range, ...]
    properties: frozenset[Property] = frozenset()
    negated: bool = False

    @classmethod
    def of(cls, *members: str | int | Range) -> CharClass:
        """Characters of strings, code points and ranges."""
        found: list[Range] = []
        for member in members:
            if isinstance(member, str):
                found.extend((ord(char), ord(char)) for char in member)
            else:
                found.append((member, member) if isinstance(member, int) else member)
        return cls(_normal(found))

    @classmethod
    def union(cls, classes: Iterable[CharClass]) -> CharClass:
        """All members of classes, of which none may be ``negated``."""
        ranges: list[Range] = []
        properties: set[Property] = set()
        for each in classes:
            if each.negated:
                raise ValueError("a negated class with properties cannot be united")
            ranges.extend(each.ranges)
            properties |= each.properties
        if any(each.inverse() in properties for each in properties):
            return ANY
        return cls(_normal(ranges), frozenset(properties))

    def complement(self) -> CharClass:
        if self.properties:
            return CharClass(self.ranges, self.properties, not self.negated)
        return CharClass(_complement(self.ranges))

    def is_empty(self) -> bool:
        return not self.ranges and not self.properties

    def single(self) -> int | None:
        """The only member, where there is just one."""
        if len(self.ranges) == 1 and not self.properties and self.ranges[0][0] == self.ranges[0][1]:
            return self.ranges[0][0]
        return None

    def contains(self, code: int) -> bool:
        """Membership; of a property llguidance's engine is asked, so that no second Unicode version comes into play."""
        at = bisect_right(self.ranges, (code, LAST)) - 1
        inside = at >= 0 and code <= self.ranges[at][1]
        inside = inside or any(_has(code, each.name) != each.negated for each in self.properties)
        return inside != self.negated


def property_class(name: str, negated: bool = False) -> CharClass:
    return CharClass((), frozenset({Property(name, negated)}))


@lru_cache(maxsize=256)
def property_exists(name: str) -> bool:
    """Whether llguidance's engine knows a property by this name."""
    return not LLMatcher.validate_grammar(_property_grammar(name))


@lru_cache(maxsize=1 << 16)
def _has(code: int, name: str) -> bool:
    matcher = _property_matcher(name).deep_copy()  # one matcher must not be advanced by two threads
    data = chr(code).encode()
    return matcher.try_consume_tokens(list(data)) == len(data)


@lru_cache(maxsize=256)
def _property_matcher(name: str) -> LLMatcher:
    return LLMatcher(LLTokenizer("byte"), _property_grammar(name))


def _property_grammar(name: str) -> str:
    return LLMatcher.grammar_from_lark(f"start: T\nT: /\\p{{{name}}}/")


def _normal(ranges: Iterable[Range]) -> tuple[Range, ...]:
    merged: list[Range] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(part for each in merged for part in _without_surrogates(each))


def _without_surrogates(each: Range) -> list[Range]:
    low, high = each
    if high < SURROGATES[0] or low > SURROGATES[1]:
        return [each]
    parts = [(low, SURROGATES[0] - 1), (SURROGATES[1] + 1, high)]
    return [part for part in parts if part[0] <= part[1]]


def _complement(ranges: tuple[Range, ...]) -> tuple[Range, ...]:
    gaps: list[Range] = []
    after = 0
    for low, high in ranges:
        if after < low:
            gaps.append((after, low - 1))
        after = high + 1
    if after <= LAST:
        gaps.append((after, LAST))
    return _normal(gaps)


ANY = CharClass(_SCALARS)
NONE = CharClass(())
DIGITS = CharClass.of((0x30, 0x39))
WORD = CharClass.of((0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A), "_")
HORIZONTAL_SPACES = CharClass.of("\t \u00a0\u1680\u180e\u202f\u205f\u3000", (0x2000, 0x200A))
ECMA_SPACES = CharClass.of((0x09, 0x0D), " \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff", (0x2000, 0x200A))
ECMA_LINE_ENDS = CharClass.of("\n\r\u2028\u2029")
UNICODE_DIGITS = property_class("Nd")
UNICODE_WORD = CharClass.union(property_class(name) for name in ("Alphabetic", "M", "Nd", "Pc", "Join_Control"))
UNICODE_SPACES = CharClass.of((0x09, 0x0D), " \u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000", (0x2000, 0x200A))
