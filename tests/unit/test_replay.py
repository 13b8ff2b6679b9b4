"""The benchmarks' judge of masks: what it must find in programs whose faults are known."""

from __future__ import annotations

import json
from typing import Any

import pytest
from judgement import Judge, Taken
from llguidance import LLMatcher, LLTokenizer
from replay import COMPACT, DEFAULT, Replayer, Spelling, Walk

from ananke_server.masking.program import Branch, Leaf, Program, to_text

BYTES = LLTokenizer("byte")


def regex(pattern: str) -> Leaf:
    return Leaf(LLMatcher.grammar_from_regex(pattern))


def schema(value: dict[str, Any]) -> str:
    return str(LLMatcher.grammar_from_json_schema(json.dumps(value)))


def admits(program: Program, text: str) -> bool:
    walk = Walk(BYTES, program)
    return walk.advance(text.encode()) == len(text.encode()) and walk.accepting()


ANY = Branch("any", (regex("ab"), regex("ac+")))


@pytest.mark.parametrize(
    ("program", "yes", "no"),
    [
        (regex("a+"), ["a", "aaa"], ["", "b", "ab"]),
        (ANY, ["ab", "ac", "acc"], ["a", "abc", "acb"]),
        (Branch("all", (regex("[a-d]*"), regex("[c-f]*"))), ["", "cd"], ["a", "ce"]),
        (Branch("all", (regex("[a-d]*"), ANY)), ["ab", "acc"], ["", "abc"]),
    ],
)
def test_walks_agree_with_the_languages_and_with_the_masks(program: Program, yes: list[str], no: list[str]) -> None:
    replayer = Replayer(BYTES)
    for text, expected in [*((text, True) for text in yes), *((text, False) for text in no)]:
        assert admits(program, text) is expected
        assert (replayer.stop(replayer.matcher(to_text(program)), text) is None) is expected


def test_a_part_left_behind_is_alive_again_after_a_rollback() -> None:
    walk = Walk(BYTES, ANY)
    assert walk.advance(b"acc") == 3
    walk.rollback(2)
    assert walk.advance(b"b") == 1
    assert walk.accepting()


@pytest.mark.parametrize(
    ("admitted", "value", "text", "causes"),
    [
        ({"const": 1}, 1, "1", []),
        ({"const": 1}, 1.0, "1", ["number form"]),
        ({"properties": {"a": {}, "b": {}}, "required": ["a", "b"]}, {"b": 1, "a": 2}, '{"a": 2, "b": 1}', ["order of properties"]),
        ({"type": "string"}, 'x"', '"x\\""', []),
    ],
)
def test_spellings_are_found_with_their_causes(admitted: dict[str, Any], value: Any, text: str, causes: list[str]) -> None:
    assert Spelling(schema(admitted), DEFAULT).find(value) == (text, causes)


def test_the_order_of_the_schema_is_tried_where_too_many_orders_are_possible() -> None:
    names = [f"p{number}" for number in range(12)]
    grammar = schema({"properties": {name: {"type": "integer"} for name in names}, "required": names, "additionalProperties": False})
    value = dict.fromkeys(reversed(names), 1)
    found = Spelling(grammar, DEFAULT, names=names).find(value)
    assert found == (json.dumps(dict(reversed(value.items()))), ["order of properties"])


def test_a_value_that_no_spelling_saves_is_not_found() -> None:
    assert Spelling(schema({"type": "integer"}), DEFAULT).find([1]) is None
    assert Spelling(schema({"type": "integer"}), COMPACT).find(1.5) is None


def test_verdicts() -> None:
    def judge(grammar: str, value: Any, *, valid: bool, guarantee: str = "exact", says: dict[str, Any] | None = None) -> str:
        constraint = json.dumps({"type": "json_schema", "schema": says}) if says is not None else None
        taken = Taken(grammar, guarantee, constraint)
        return Judge(taken, Replayer(BYTES), [DEFAULT]).judge(value, valid=valid).verdict

    integer, loose = schema({"type": "integer"}), schema({})
    assert judge(integer, 1, valid=True) == "right"
    assert judge(integer, "a", valid=False) == "right"
    assert judge(integer, "a", valid=True) == "narrowed"
    assert judge(loose, "a", valid=False) == "wrong"
    assert judge(loose, "a", valid=False, guarantee="verified", says={"type": "integer"}) == "caught"
    assert judge(loose, "a", valid=False, guarantee="verified", says={"type": "string"}) == "wrong"
    assert judge(loose, "a", valid=False, guarantee="exact", says={"type": "integer"}) == "wrong"
    assert judge(loose, "a", valid=True, guarantee="verified", says={"type": "integer"}) == "alarm"
    assert judge(integer, 1.0, valid=False) == "respelled"
