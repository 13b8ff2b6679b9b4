"""Canonical forms: equal for texts that differ in form alone, different for all that may mean something else."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ananke_client.constraint import parse_constraint
from ananke_server.constraints.canonical import constraint_key, text_key

SCHEMA = {
    "type": "object",
    "properties": {"b": {"type": "integer", "minimum": 1}, "a": {"enum": [{"y": 1, "x": 2}, 3]}},
    "required": ["b", "a"],
    "$defs": {"n": {"maximum": 3, "type": "number"}, "m": True},
    "anyOf": [{"title": "t", "description": "d"}, {"not": {"type": "null", "title": "u"}}],
}


def key(constraint: Any, **options: Any) -> str | None:
    return text_key(json.dumps(constraint, **options))


def schema(value: Any) -> Any:
    return {"type": "json_schema", "schema": value}


def reordered(value: Any) -> Any:
    """The same with the keys of every object turned round."""
    if isinstance(value, list):
        return [reordered(part) for part in value]
    return {name: reordered(part) for name, part in reversed(value.items())} if isinstance(value, dict) else value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (schema(SCHEMA), {"schema": SCHEMA, "type": "json_schema"}),
        (schema({"type": "integer", "minimum": 1}), schema({"minimum": 1, "type": "integer"})),
        (schema({"$defs": {"b": True, "a": False}}), schema({"$defs": {"a": False, "b": True}})),
        (schema({"not": {"type": "null", "title": ""}}), schema({"not": {"title": "", "type": "null"}})),
        (schema({"properties": {"p": {"a": 1, "b": 2}}}), schema({"properties": {"p": {"b": 2, "a": 1}}})),
        (schema({"items": [{"a": 1, "b": 2}]}), schema({"items": [{"b": 2, "a": 1}]})),
        (
            {"type": "composite", "mode": "any", "constraints": [schema({"type": "null", "title": ""})]},
            {"constraints": [{"schema": {"title": "", "type": "null"}, "type": "json_schema"}], "mode": "any", "type": "composite"},
        ),
        ({"json_schema": {"type": "null", "title": ""}, "name": "n"}, {"name": "n", "json_schema": {"title": "", "type": "null"}}),
        ({"token_mask": {"allowed": [1], "name": "n"}}, {"token_mask": {"name": "n", "allowed": [1]}}),
    ],
)
def test_order_without_a_meaning(one: Any, other: Any) -> None:
    assert key(one) == key(other) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (schema({"properties": {"a": {}, "b": {}}}), schema({"properties": {"b": {}, "a": {}}})),
        (schema({"const": {"a": 1, "b": 2}}), schema({"const": {"b": 2, "a": 1}})),
        (schema({"enum": [{"a": 1, "b": 2}]}), schema({"enum": [{"b": 2, "a": 1}]})),
        (schema({"enum": [1, 2]}), schema({"enum": [2, 1]})),
        (schema({"required": ["a", "b"]}), schema({"required": ["b", "a"]})),
        # A property by the name of a keyword is a property; a reference may lead into an unknown keyword.
        (
            schema({"properties": {"const": {"properties": {"a": 1, "b": 1}}}}),
            schema({"properties": {"const": {"properties": {"b": 1, "a": 1}}}}),
        ),
        (schema({"x": {"properties": {"a": {}, "b": {}}}}), schema({"x": {"properties": {"b": {}, "a": {}}}})),
        (schema({"const": 1}), schema({"const": 1.0})),
        (schema({"const": 1}), schema({"const": True})),
        (schema({"const": "1"}), schema({"const": 1})),
        ({"type": "regex", "pattern": "a "}, {"type": "regex", "pattern": "a"}),
        ({"type": "choice", "choices": ["a", "b"]}, {"type": "choice", "choices": ["b", "a"]}),
        # The same language, but the report tells of the name.
        ({"regex_patterns": ["a"]}, {"regex_patterns": ["a"], "name": "n"}),
    ],
)
def test_what_may_mean_something_else(one: Any, other: Any) -> None:
    assert key(one) != key(other)


def test_white_space_and_escapes() -> None:
    constraint = {"type": "regex", "pattern": "ä\n"}
    assert key(constraint) == key(constraint, indent=3) == key(constraint, ensure_ascii=False) == key(constraint, separators=(" ,", " :"))


@pytest.mark.parametrize("text", ["", "{", '{"a": 1, "a": 1}', "[NaN]", '{"a": -Infinity}', "1e999", "[" * 100_000, "9" * 5000])
def test_text_that_is_no_constraint_has_no_canonical_form(text: str) -> None:
    assert text_key(text) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(["type", "schema", "x", "", "ä"]), values, max_size=3),
    max_leaves=12,
)


@given(json_values, st.randoms(use_true_random=False))
def test_the_key_never_takes_different_values_for_one(value: Any, random: random.Random) -> None:
    other = changed(value, random)
    assert (key(value) == key(other)) <= (canonically(value) == canonically(other))
    assert key(value) == key(json.loads(json.dumps(value, indent=1)))


def canonically(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def changed(value: Any, random: random.Random) -> Any:
    """The value with one of its leaves, at times, another."""
    if isinstance(value, list) and value:
        index = random.randrange(len(value))
        return [*value[:index], changed(value[index], random), *value[index + 1 :]]
    if isinstance(value, dict) and value:
        name = random.choice(list(value))
        return value | {name: changed(value[name], random)}
    return random.choice([value, 0, "", None, [], {}])


def test_the_report_s_key_fills_defaults_in() -> None:
    terse, full = parse_constraint(schema(SCHEMA)), parse_constraint(schema(SCHEMA) | {"whitespace": "flexible"})
    assert constraint_key(terse) == constraint_key(full)
    assert constraint_key(terse) != constraint_key(parse_constraint(schema(SCHEMA) | {"whitespace": "compact"}))
    assert constraint_key(terse) != constraint_key(parse_constraint(schema(reordered(SCHEMA))))
    assert constraint_key(terse).startswith("sha256:")
