"""The languages of random patterns: the matcher judged by ``re``, every emitted source by llguidance's engine on all short texts."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regex_support import Accepts, body

from ananke_server.constraints.regex import parse_regex, quoted_any, quoted_length, quoted_literal, rust_literal

ALPHABET = 'ab"\\\n'
TEXTS = ["".join(chars) for length in range(4) for chars in itertools.product(ALPHABET, repeat=length)]


@dataclass(frozen=True)
class Pattern:
    """One pattern as ECMAScript and as Python write it: there ``$`` also stands before a last newline."""

    ecma: str
    python: str


def same(source: str) -> Pattern:
    return Pattern(source, source)


ATOMS = st.sampled_from(
    [
        *map(same, ["a", "b", '"', r"\\", r"\n", "[ab]", "[^a]", r'[^"\\]', r"[\n-a]", r"\x61", r"[\\\]\-b]", r"(?:)", "(a|)"]),
        same("^"),
        Pattern("$", r"\Z"),
        Pattern("[^]", r"(?s:.)"),
        Pattern(r"\w", r"(?a:\w)"),
        Pattern(r"\S", r"(?a:\S)"),
        Pattern(r"(?i:B)", r"(?i:B)"),
    ]
)
QUANTIFIERS = ["*", "+", "?", "{2}", "{1,2}", "{2,}", "{0,3}", "{0}", "*?", "+?", "??", "{1,2}?"]


def grown(inner: st.SearchStrategy[Pattern]) -> st.SearchStrategy[Pattern]:
    def joined(parts: list[Pattern], by: str) -> Pattern:
        return Pattern(by.join(part.ecma for part in parts), by.join(part.python for part in parts))

    def wrapped(part: Pattern, before: str, after: str) -> Pattern:
        return Pattern(before + part.ecma + after, before + part.python + after)

    several = st.lists(inner, min_size=2, max_size=3)
    return st.one_of(
        several.map(lambda parts: joined(parts, "")),
        several.map(lambda parts: wrapped(joined(parts, "|"), "(", ")")),
        st.builds(lambda part, quantifier: wrapped(part, "(?:", f"){quantifier}"), inner, st.sampled_from(QUANTIFIERS)),
    )


PATTERNS = st.recursive(ATOMS, grown, max_leaves=7)


@given(PATTERNS)
@settings(max_examples=300, deadline=None)
def test_the_matcher_agrees_with_re(pattern: Pattern) -> None:
    parsed, reference = parse_regex(pattern.ecma), re.compile(pattern.python)
    for text in TEXTS:
        assert parsed.searches(text) == bool(reference.search(text)), text
        assert parsed.fullmatches(text) == bool(reference.fullmatch(text)), text


@given(PATTERNS)
@settings(max_examples=120, deadline=None)
def test_sources_match_what_the_matcher_does(pattern: Pattern) -> None:
    parsed = parse_regex(pattern.ecma)
    full, found = [t for t in TEXTS if parsed.fullmatches(t)], [t for t in TEXTS if parsed.searches(t)]
    assert Accepts(parsed.full()).of(TEXTS) == full
    assert Accepts(parsed.search()).of(TEXTS) == found
    assert Accepts(parsed.quoted_full()).of(map(body, TEXTS)) == [body(text) for text in full]
    assert Accepts(parsed.quoted_search()).of(map(body, TEXTS)) == [body(text) for text in found]


@given(PATTERNS)
@settings(max_examples=120, deadline=None)
def test_listed_texts_are_the_language(pattern: Pattern) -> None:
    parsed = parse_regex(pattern.ecma)
    for listed, matches in ((parsed.finite(40), parsed.fullmatches), (parsed.finite_search(40), parsed.searches)):
        if listed is None:
            continue
        assert len(set(listed)) == len(listed) <= 40
        assert all(matches(text) for text in listed)
        assert set(listed).issuperset(text for text in TEXTS if matches(text))
    assert parsed.matches_nothing() == (parsed.finite_search(0) == [])


@given(PATTERNS)
@settings(max_examples=80, deadline=None)
def test_quoted_sources_take_nothing_but_json_bodies(pattern: Pattern) -> None:
    accepts = Accepts(parse_regex(pattern.ecma).quoted_search())
    for text in ["".join(chars) for length in range(1, 4) for chars in itertools.product('\\"\nnu/a', repeat=length)]:
        if accepts(text):
            assert body(re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), text)) == text


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("^a|b$", ["a", "b"]),
        ("(^|x)y", ["y", "xy"]),
        ("a*^b", ["b"]),
        ("a^b", []),
        ("a$b", []),
        ("(^a|b)c$", ["ac", "bc"]),
        ("^$", [""]),
        ("^^$$", [""]),
        ("$^", [""]),
        ("(a$|b)c", ["bc"]),
        ("(^a|b){2}", ["ab", "bb"]),
        ("(^a|b){3}", ["abb", "bbb"]),
        ("b*(^a$|^c)", ["a", "c"]),
        ("(?:^a|a$){2}", ["aa"]),
        ("(?:^|a){3}$", ["", "a", "aa", "aaa"]),
        ("(?:a|$){2}", ["", "a", "aa"]),
    ],
)
def test_anchors_anywhere_are_resolved(pattern: str, texts: list[str]) -> None:
    listed = parse_regex(pattern).finite(10)
    assert listed is not None
    assert sorted(listed) == sorted(texts)
    assert parse_regex(pattern).matches_nothing() == (not texts)


def test_a_finite_search_takes_anchors_at_both_ends() -> None:
    assert parse_regex("^(nl|en)(-[XY])?$").finite_search(6) == ["nl", "nl-X", "nl-Y", "en", "en-X", "en-Y"]
    assert parse_regex("^(nl|en)(-[XY])?$").finite_search(5) is None
    assert parse_regex("^nl").finite_search(1000) is None
    assert parse_regex("^[a-z]{30}$").finite_search(1000) is None
    assert parse_regex(r"^\p{Lu}$").finite_search(10) is None


def test_every_control_character_has_its_canonical_escape() -> None:
    accepts = Accepts(quoted_any())
    for code in [*range(0x80), 0xE9, 0x2028, 0xFFFF, 0x1F600]:
        literal = Accepts(quoted_literal(chr(code)))
        assert accepts(body(chr(code)))
        assert literal(body(chr(code)))
        assert not literal(body("x")) or chr(code) == "x"
    assert Accepts(quoted_literal("\x1f"))("\\u001F")
    assert accepts.of(['"', "\\", "\n", "\\/", "\\u0041", "\\u000a", "\\x", "\\u001", "\\u001g"]) == []


@pytest.mark.parametrize(("minimum", "maximum"), [(0, 0), (0, 2), (2, 2), (1, None), (0, None), (3, 1000)])
def test_lengths_count_code_points(minimum: int, maximum: int | None) -> None:
    accepts = Accepts(quoted_length(minimum, maximum))
    for length in range(5):
        for char in 'a"\n\x01\U0001f600':
            assert accepts(body(char * length)) == (minimum <= length and (maximum is None or length <= maximum))


def test_lengths_out_of_order_and_half_characters_are_errors() -> None:
    with pytest.raises(ValueError, match="between 3 and 2"):
        quoted_length(3, 2)
    with pytest.raises(ValueError, match="surrogate"):
        quoted_literal("\ud83d")


@given(st.text(max_size=8), st.text(max_size=8))
@settings(max_examples=80, deadline=None)
def test_literals_match_themselves_alone(text: str, other: str) -> None:
    assert Accepts(rust_literal(text)).of([text, other, text + "a"]) == [text] * (1 + (other == text))
    assert Accepts(quoted_literal(text)).of([body(text), body(other)]) == [body(text)] * (1 + (other == text))
