"""Canonical JSON by RFC 8785's own examples, and token trails."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ananke_client.provenance.canonical import NotCanonicalError, canonical_json, read_canonical, recordable
from ananke_client.provenance.trail import first_departure, token_at, trail_of

# RFC 8785, appendix B: the bits of a double and its text.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "44b52d02c7e14af6": "1e+23",
    "444b1ae4d6e2ef50": "1e+21",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}


@pytest.mark.parametrize(("bits", "text"), NUMBERS.items())
def test_numbers_are_written_as_the_rfc_writes_them(bits: str, text: str) -> None:
    [number] = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical_json(number) == text.encode()
    assert read_canonical(text.encode()) == number


def test_the_rfcs_example_is_written_as_there() -> None:
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": '\u20ac$\u000f\u000aA\'\u0042\u0022\u005c\\"/',
        "literals": [None, True, False],
    }
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical_json(value) == expected.encode()
    names = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    assert list(read_canonical(canonical_json(names)).values()) == [2, 4, 6, 7, 1, 5, 3], "by UTF-16 code units"


_SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text() | st.floats(allow_nan=False, allow_infinity=False)
_VALUES = st.recursive(_SCALARS, lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(), part, max_size=4), max_leaves=12)


@given(_VALUES)
def test_what_is_written_is_read_back_and_has_no_other_spelling(value: object) -> None:
    data = canonical_json(value)
    assert read_canonical(data) == value
    for other in (b" " + data, data + b"\n", json.dumps(value, indent=1).encode()):
        if other != data:
            with pytest.raises(NotCanonicalError):
                read_canonical(other)


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":1}', '{"b":1,"a":2}', "1.0", "1e0", "-0", "NaN", "Infinity", '"\\u0041"', '"\\/"', "01", "9" * 5000, "1e999", ""]
)
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(NotCanonicalError):
        read_canonical(text.encode())


def test_what_canonical_json_cannot_hold_becomes_text() -> None:
    value = {"seed": 2**60, "t": float("inf"), "n": float("nan"), "s": "a\ud800", "fine": [1, 0.5, None, True, 2**53 - 1], 3: (1, -(2**53))}
    value["\ud800"] = 0
    recorded = recordable(value)
    assert recorded == {
        "seed": str(2**60), "t": "inf", "n": "nan", "s": "a\\ud800", "fine": [1, 0.5, None, True, 2**53 - 1], "3": [1, str(-(2**53))],
        "\\ud800": 0,
    }  # fmt: skip
    assert read_canonical(canonical_json(recorded)) == recorded


TOKENS = [5, 0, 49151, 2]


@pytest.mark.parametrize(
    ("repeated", "position"),
    [(TOKENS, None), ([6, 0, 49151, 2], 0), ([5, 0, 49151, 3], 3), ([5, 0, 49151], 3), ([5, 0, 49151, 2, 2], 4), ([], 0)],
)
def test_a_trail_finds_the_first_token_that_departs(repeated: list[int], position: int | None) -> None:
    trail = trail_of("text", TOKENS)
    assert first_departure(trail, "text", repeated) == position
    if position is not None and position < len(TOKENS):
        assert token_at(trail, "text", TOKENS[:position], 49152) == TOKENS[position]


def test_a_trail_says_nothing_to_who_has_not_the_output() -> None:
    trail = trail_of("text", TOKENS)
    assert first_departure(trail, "tex", TOKENS) == 0
    assert token_at(trail, "tex", [], 2000) is None
    assert token_at(trail, "text", TOKENS, 49152) is None, "there is no fifth token"
    assert token_at(trail, "text", [], 5) is None, "the vocabulary ends before the token"
    assert trail_of("text", []) == ""
    with pytest.raises(ValueError, match="whole marks"):
        first_departure("AAAA", "text", TOKENS)
