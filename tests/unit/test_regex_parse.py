"""What patterns mean in each dialect, what is refused with which place, and that size and depth are bounded."""

from __future__ import annotations

import sys
import time
import unicodedata

import pytest
from regex_support import Accepts

from ananke_server.constraints.regex import Dialect, RegexError, parse_regex

REFUSED = [  # pattern, dialect, offset, unsupported
    ("^(?!x)", "ecma", 1, True),
    ("a(?=b)", "ecma", 1, True),
    ("(?<=a)b", "ecma", 0, True),
    ("(?<!a)b", "rust", 0, True),
    (r"(a)\1", "ecma", 3, True),
    (r"(?<n>a)\k<n>", "ecma", 7, True),
    (r"(?P<n>a)(?P=n)", "ecma", 8, True),
    (r"ab\b", "ecma", 2, True),
    (r"\Ba", "rust", 0, True),
    (r"a(?>b)", "ecma", 1, True),
    (r"a(?R)", "ecma", 1, True),
    (r"(a)(?1)", "ecma", 3, True),
    (r"(a)?(?(1)b|c)", "ecma", 4, True),
    ("a++", "ecma", 2, True),
    ("a{,3}", "ecma", 1, True),
    (r"\07", "ecma", 0, True),
    (r"[\1]", "ecma", 1, True),
    ("(?m)a$", "ecma", 5, True),
    ("(?u)a", "ecma", 0, True),
    ("[[:alpha:]]", "ecma", 1, True),
    ("[a-c&&b]", "rust", 4, True),
    (r"\ud83d", "ecma", 0, True),
    (r"[a\ud800-\udbff]", "ecma", 2, True),
    (r"(?i)\p{Lu}", "ecma", 4, True),
    (r"\Qa\E", "ecma", 0, True),
    ("a)", "ecma", 1, False),
    ("(a", "ecma", 0, False),
    ("[a", "ecma", 0, False),
    ("*a", "ecma", 0, False),
    ("a|*", "ecma", 2, False),
    ("^*", "ecma", 1, False),
    ("a**", "ecma", 2, False),
    ("a{2}{3}", "ecma", 4, False),
    ("a{3,2}", "ecma", 1, False),
    ("[b-a]", "ecma", 1, False),
    ("a\\", "ecma", 1, False),
    (r"\y", "ecma", 0, False),
    (r"\xg0", "ecma", 0, False),
    (r"\u{110000}", "ecma", 0, False),
    (r"\c1", "ecma", 0, False),
    (r"\p{Nonsense}", "ecma", 0, False),
    (r"\p{L", "ecma", 0, False),
    ("(?<1>a)", "ecma", 0, False),
]


@pytest.mark.parametrize(("pattern", "dialect", "offset", "unsupported"), REFUSED)
def test_refusals_say_where_and_what_to_do(pattern: str, dialect: Dialect, offset: int, unsupported: bool) -> None:
    with pytest.raises(RegexError) as refusal:
        parse_regex(pattern, dialect)
    assert (refusal.value.offset, refusal.value.unsupported) == (offset, unsupported)
    assert not refusal.value.too_large
    assert refusal.value.message in str(refusal.value)


@pytest.mark.parametrize(
    ("pattern", "dialect", "admitted", "refused"),
    [
        (r"\d", "ecma", "7", "٣a"),
        (r"\d", "rust", "7٣", "a"),
        (r"\w", "ecma", "a_Z0", "é-"),
        (r"\w", "rust", "a_Z0é", "-"),
        (".", "ecma", "a\x85\x00", "\n\r\u2028\u2029"),
        (".", "rust", "a\r\u2028", "\n"),
        ("[^]", "ecma", "a\n\U0001f600", ""),
        ("(?s:.)", "ecma", "a\n", ""),
        (r"\h", "rust", "\t \u3000", "\na"),
        (r"[\b]", "ecma", "\x08", "b"),
        (r"\cC", "ecma", "\x03", "C"),
        (r"\0", "ecma", "\0", "0"),
        (r"\x41|\u0042|\u{43}", "ecma", "ABC", "D"),
        (r"\x{41}|\U00000042", "rust", "AB", "C"),
        (r"\ud83d\ude00", "ecma", "\U0001f600", "a"),
        (r"[\u{1F600}-\u{1F610}]", "ecma", "\U0001f605", "\U0001f611"),
        (r"[^\ud800-\udfff]", "ecma", "a\ue000", ""),
        (r"\/|\-|\@|\_|\:", "ecma", "/-@_:", "\\"),
        (r"[\w-.]", "ecma", "a-.", "/"),
        (r"[a-\d]", "ecma", "a-5", "b"),
        (r"[]-]|[a-]", "rust", "]-a", "b"),
        ("]|}", "ecma", "]}", "a"),
        (r"\p{L}", "ecma", "aéあ", "1_"),
        (r"\pL|\PL", "rust", "aé1", ""),
        (r"\P{L}", "ecma", "1 ", "aé"),
        (r"\p{Script=Greek}", "ecma", "\u03b1", "a"),
        (r"[^\p{L}\d]", "ecma", "_ ", "aé1"),
        (r"(?i:[k])|(?i)é", "ecma", "kK\u212aéÉ", "e"),
        (r"(?i:[^k])", "ecma", "a", "kK\u212a"),
        ("[[:alpha:][^a-z]]", "rust", "aZ1", ""),
        ("(?x) a # b", "rust", "a", "b #"),
        ("(?<name>a)|(?P<n>b)|(?:c)|(?#no)d", "ecma", "abcd", "n"),
    ],
)
def test_single_characters(pattern: str, dialect: Dialect, admitted: str, refused: str) -> None:
    parsed = parse_regex(pattern, dialect)
    accepts, accepts_quoted = Accepts(parsed.full()), Accepts(parsed.quoted_full())
    for char in admitted + refused:
        assert parsed.fullmatches(char) == (char in admitted), char
        assert accepts(char) == (char in admitted), char
    assert accepts_quoted('\\"') == parsed.fullmatches('"')


def test_ecma_spaces_are_those_of_the_standard() -> None:
    parsed = parse_regex(r"\s")
    accepts = Accepts(parsed.full())
    for code in [*range(0x3100), *range(0xFE00, 0x10000)]:
        char = chr(code)
        space = char in "\t\n\v\f\r\ufeff\u2028\u2029" or unicodedata.category(char) == "Zs"
        assert parsed.fullmatches(char) == accepts(char) == space, hex(code)


@pytest.mark.parametrize(
    "pattern", [r"\w", r"\W", r"\d", r"\s", r"\S", r"[\w\s-]", r"[^\d_]", r"\pN", "(?i)[a-f]", "(?i)ß", "(?s).", "[[:punct:]]"]
)
def test_the_rust_dialect_means_what_the_engine_does(pattern: str) -> None:
    parsed = parse_regex(pattern, "rust")
    ours, engine = Accepts(parsed.full()), Accepts(pattern)
    for code in [*range(0x600), *range(0x2000, 0x2100), 0x1E9E, 0x1D7CE, 0x10FFFF]:
        assert ours(chr(code)) == engine(chr(code)) == parsed.fullmatches(chr(code)), hex(code)


@pytest.mark.parametrize(
    ("pattern", "found", "missed"),
    [
        (r"^[a-z0-9]+(?:-[a-z0-9]+)*$", ["a", "a-b-9"], ["", "a-", "-a", "a--b", "a\n"]),
        (r"^\S+@\S+\.\S+$", ["a@b.c"], ["a@b", "a @b.c"]),
        (r"\S+", ["a", " a "], ["", " \n"]),
        (r"^\S.*$", ["a b"], [" a", "a\n", ""]),
        (r"^\d{4}-\d{2}-\d{2}$", ["2026-11-22"], ["x2026-11-22", "2026-1-22"]),
        (r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-[\da-z-]+(?:\.[\da-z-]+)*)?$", ["1.0.10-rc.1"], ["01.0.0", "1.0"]),
        (r"^(?:@[a-z0-9-~][a-z0-9-._~]*\/)?[a-z0-9-~][a-z0-9-._~]*$", ["@scope/name", "a.b"], ["/a", "A"]),
        (r"^[\w][\w.-]{0,127}$", ["latest", "1.0_a-b"], [".a", "a" * 129]),
        (r"\A[a-z]+\Z", ["abc"], ["abc\n", "Abc"]),
        ("^https?://", ["https://a"], ["ahttps://"]),
        ("^zip|tar$", ["zipper", "a.tar"], ["azip", "tars"]),
        ("(?:^|,)a(?:,|$)", ["a", "b,a", "a,b", "x,a,y"], ["ba", "ab", ""]),
        (r"^[^\s/]+$", ["a-b"], ["a/b", "a b", ""]),
        ("^(?i:on|off)$", ["On", "OFF"], ["of"]),
        ("^.{1,3}?$", ["a", "\U0001f600é1"], ["", "abcd"]),
        ("^{a}$", ["{a}"], ["a"]),
    ],
)
def test_patterns_of_daily_use(pattern: str, found: list[str], missed: list[str]) -> None:
    parsed = parse_regex(pattern)
    accepts = Accepts(parsed.search())
    for text in found + missed:
        assert parsed.searches(text) == accepts(text) == (text in found), text


@pytest.mark.parametrize(
    "pattern",
    [
        "a" * 65537,
        "(a{1,1000}b){1,1000}",
        "(a{1,1000}){1,1000}",
        "a{100001}",
        "a{99999999999999999999}",
        "(a{1,100}b?){1,10}",
        "(" * 51 + ")" * 51,
    ],
)
def test_what_is_too_large_says_so(pattern: str) -> None:
    with pytest.raises(RegexError) as refusal:
        parse_regex(pattern)
    assert refusal.value.too_large
    assert not refusal.value.unsupported


@pytest.mark.parametrize("pattern", ["(^a|b)" * 10_000, "(?:^b$|c" * 40 + "^a" + ")*" * 40])
def test_anchors_that_multiply_are_refused(pattern: str) -> None:
    parsed = parse_regex(pattern)
    with pytest.raises(RegexError, match="too complex") as refusal:
        parsed.search()
    assert refusal.value.too_large
    assert not parsed.fullmatches("x")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"([a-z]{1,63}\.){1,127}", "abc." * 127),
        ("a{1,100000}", "a" * 2000),
        ("(?:a{0,100}){0,100}", "a" * 2000),
        (r"(\d{1,3}\.){1,1000}", "12." * 1000),
        ("(a{1,100}b?)*", "a" * 2000),
        (r"(\w{1,20}\s?){1,10}", "a" * 200),
    ],
)
def test_large_bounds_that_the_engine_bears_pass(pattern: str, text: str) -> None:
    source = parse_regex(pattern).full()
    assert Accepts(source)(text)


@pytest.mark.parametrize("piece", ["a", "[^a]", "a|", "a*", "^a", "a$", "(?:)", "(?i)", "{", r"\W", r"\u0041", "x{1}", "(a)"])
def test_parsing_takes_linear_time(piece: str) -> None:
    parse_regex(piece)
    started = time.process_time()
    parse_regex(piece * (65536 // len(piece)))
    assert time.process_time() - started < 5


def test_nesting_never_exhausts_the_stack() -> None:
    limit = sys.getrecursionlimit()
    parsed = parse_regex("(?:b|c" * 50 + "a" + "d)+" * 50)
    depth = len_of_stack()
    try:
        sys.setrecursionlimit(depth + 420)
        Accepts(parsed.search())
        Accepts(parsed.quoted_full())
        assert parsed.searches("b")
        assert parsed.finite(3) is None
    finally:
        sys.setrecursionlimit(limit)


def len_of_stack() -> int:
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1  # type: ignore[assignment]
    return depth


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(a+)+(a|aa)*", "a" * 1000 + "b"),
        ("(?:a*" * 50 + "b" + "b*c?)+" * 50, "abc" * 50 + "d"),
        ("(?:a|b" * 50 + "b" + "a){1,3}" * 8 + "a|b)*" * 42, "abba" * 50 + "c"),
    ],
)
def test_matching_takes_polynomial_time(pattern: str, text: str) -> None:
    parsed = parse_regex(pattern)
    started = time.process_time()
    assert not parsed.fullmatches(text)
    assert time.process_time() - started < 5
