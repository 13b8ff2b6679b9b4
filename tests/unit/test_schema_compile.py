"""JSON schemas through the compiler of constraints: what is admitted, judged by ``jsonschema``, and what is refused, with its place."""

from __future__ import annotations

import json
import random
import time
from functools import lru_cache
from typing import Any

import pytest
from constraint_support import COMPILER, LIMITS, TOKENIZER, admits, is_sound, lark, schema
from jsonschema import Draft7Validator, Draft202012Validator

from ananke_client.errors import ErrorCode
from ananke_server.constraints.verify import fault_of
from ananke_server.masking.matchers import new_matcher

DRAFT_7 = "http://json-schema.org/draft-07/schema#"

# JSON schemas, judged by jsonschema.


@lru_cache
def values() -> tuple[Any, ...]:
    scalars = [None, True, False, 0, 1, 5, -3, 10**15, 0.5, -1.25, "", "a", "ab", "b", "abc", 'é"\\\n😀', "2024-02-29", "2024-13-01"]
    arrays = [[], [1], ["a"], [1, "a"], [1, 2], [1, 2, 3], [[1]], [{}]]
    objects = [
        {},
        {"a": 1},
        {"a": "x"},
        {"a": 1, "b": "y"},
        {"b": 2},
        {"a": {"a": {"a": 1}}},
        {"a": None},
        {"a": 1, "kind": "x"},
        {"x-guidance": 1},
    ]
    return (*scalars, *arrays, *objects)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"type": "integer"},
        {"type": ["integer", "null"], "minimum": 1},
        {"minimum": 1},
        {"type": "number", "exclusiveMinimum": -1.25, "maximum": 1},
        {"type": "integer", "multipleOf": 5},
        {"type": "string", "minLength": 1, "maxLength": 2},
        {"type": "string", "pattern": "^a"},
        {"type": "string", "pattern": "b"},
        {"type": "string", "format": "date"},
        {"enum": [1, "a", None, [1], {"a": 1}]},
        {"const": 'é"\\\n😀'},
        {"const": None},
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
        {"$schema": DRAFT_7, "type": "array", "items": [{"type": "integer"}], "additionalItems": False},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object", "patternProperties": {"^a": {"type": "integer"}}},
        {"type": "object", "maxProperties": 1},
        {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        {"oneOf": [{"type": "integer"}, {"type": "string"}]},
        {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"required": ["a"]}], "type": "object"},
        {"$ref": "#/$defs/tree", "$defs": {"tree": {"properties": {"a": {"$ref": "#/$defs/tree"}}, "type": ["object", "integer"]}}},
        {"properties": {"x-guidance": {"type": "string"}}},
        {"const": {"x-guidance": 1}},
        {"properties": {"maxItems": {"type": "integer"}, "$ref": {"type": "string"}}},
    ],
    ids=json.dumps,
)
def test_a_schema_admits_what_jsonschema_holds_valid(value: dict[str, Any]) -> None:
    validator = (Draft7Validator if "$schema" in value else Draft202012Validator)(value, format_checker=Draft202012Validator.FORMAT_CHECKER)
    admitted = admits(schema(value))
    judged = [(instance, admitted(json.dumps(instance, ensure_ascii=False)), validator.is_valid(instance)) for instance in values()]
    assert [instance for instance, taken, valid in judged if taken != valid] == []


def random_output(grammar: str, choose: random.Random, limit: int = 150) -> bytes | None:
    """What a mask admits when bytes are drawn from it at random; None where it is not at its end within the limit."""
    matcher = new_matcher(TOKENIZER, grammar)
    output = bytearray()
    while len(output) < limit:
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        allowed = [token for token in range(256) if mask >> token & 1]
        if mask >> TOKENIZER.eos_token & 1 and (not allowed or choose.random() < 0.4):
            return bytes(output)
        plain = [token for token in allowed if chr(token) in 'abc0123456789"{}[],:.-']
        closing = [token for token in allowed if chr(token) in '"}]']
        drawn = choose.choice(closing if closing and choose.random() < 0.4 else plain or allowed)
        matcher.consume_token(drawn)
        output.append(drawn)
    return None


@pytest.mark.parametrize(
    "value",
    [
        {"type": "number", "minimum": 0.5, "maximum": 1.25},
        {"type": "integer", "minimum": -7, "exclusiveMaximum": 113, "multipleOf": 3},
        {"type": "string", "minLength": 2, "maxLength": 5, "pattern": "^a.*b$"},
        {"type": "array", "items": {"type": ["integer", "string"]}, "minItems": 1, "maxItems": 3},
        {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", 1]}}, "required": ["b"]},
        {"type": "object", "patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
        {"allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"minimum": 3, "maxLength": 2}]},
    ],
    ids=json.dumps,
)
def test_whatever_a_mask_lets_through_is_valid(value: dict[str, Any]) -> None:
    grammar = COMPILER.compile(schema(value)).grammar
    assert grammar is not None
    choose = random.Random(7)
    outputs = [output for _ in range(40) if (output := random_output(grammar, choose)) is not None]
    assert len(outputs) > 10
    assert [output for output in outputs if not Draft202012Validator(value).is_valid(json.loads(output))] == []


@pytest.mark.parametrize(
    ("value", "output"),
    [
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"a":1,"a":"x"}'),
        ({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}, '{"\\u0061":"x"}'),
        ({"type": "string", "pattern": "^[^a]$"}, '"\\u0061"'),
        ({"type": "string", "maxLength": 1}, '"\\ud83d\\ud83d"'),
        ({"type": "string"}, '"\\ud800"'),
        ({"type": "number"}, "NaN"),
        pytest.param({"const": 2**53 + 1}, str(2**53)),
        pytest.param({"type": "integer", "minimum": 2**53 + 1, "maximum": 2**53 + 3}, str(2**53)),
        pytest.param({"prefixItems": [{"type": "integer"}], "additionalItems": False}, '[""]'),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_an_invalid_output_is_not_admitted(value: dict[str, Any], output: str) -> None:
    """A refusal of the schema would do too: what must not be is an invalid output that passes for valid."""
    compiled = COMPILER.compile(schema(value))
    assert compiled.grammar is None or not COMPILER.satisfies_text(compiled.grammar, output)


# Outputs that a careless mask admits: escaped names that pass for other properties, repeated names that count twice, a bound that
# is forgotten, a date that the calendar does not have.
MASK_HOLES: list[tuple[dict[str, Any], str]] = [
    ({"properties": {"a": {"type": "integer"}}}, '{"\\u0061":"x"}'),
    ({"properties": {"a/b": {"type": "integer"}}}, '{"a\\/b":"x"}'),
    ({"patternProperties": {"^a": {"type": "integer"}}}, '{"\\u0061b":"x"}'),
    ({"type": "object", "minProperties": 2}, '{"b":1,"b":2}'),
    ({"type": "object", "not": {"additionalProperties": {"type": "string"}}}, '{"b":1,"b":"x"}'),
    ({"type": "number", "exclusiveMinimum": 10, "exclusiveMaximum": 10.5}, "10"),
    ({"type": "string", "format": "date"}, '"2023-02-29"'),
]


@pytest.mark.parametrize(("value", "output"), MASK_HOLES)
def test_the_mask_admits_no_invalid_output(value: dict[str, Any], output: str) -> None:
    compiled = COMPILER.compile(schema(value))
    assert compiled.grammar is None or not COMPILER.satisfies_text(compiled.grammar, output)


@pytest.mark.parametrize(("value", "output"), MASK_HOLES)
def test_what_a_relaxed_mask_admits_is_called_verified_alone(value: dict[str, Any], output: str) -> None:
    compiled = COMPILER.compile(schema(value, unsupported="verify"))
    assert compiled.grammar is not None
    assert compiled.report.guarantee == "verified" or not COMPILER.satisfies_text(compiled.grammar, output)


@pytest.mark.parametrize(("value", "output"), MASK_HOLES)
def test_an_invalid_output_that_the_mask_admits_is_not_called_satisfied(value: dict[str, Any], output: str) -> None:
    assert fault_of(schema(value), output) is not None


@pytest.mark.parametrize(
    ("value", "output"),
    [
        ({"type": "object", "minProperties": 2}, '{"b":1,"c":2}'),
        ({"type": "string", "format": "date"}, '"2024-02-29"'),
        ({"type": "string", "pattern": r"^\p{Lu}+$"}, '"ABC"'),
        (True, "[1]"),
    ],
)
def test_verification_takes_what_is_valid(value: Any, output: str) -> None:
    assert fault_of(schema(value), output) is None


@pytest.mark.parametrize(
    ("whitespace", "outputs"),
    [("flexible", ['{"a":[1,2]}', '{"a": [1, 2]}', '{\n  "a": [\n    1\n  ]\n}']), ("compact", ['{"a":[1,2]}'])],
)
def test_whitespace_stands_between_tokens_where_it_is_allowed(whitespace: str, outputs: list[str]) -> None:
    value = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}, "required": ["a"]}
    admitted = admits(schema(value, whitespace=whitespace))
    texts = ['{"a":[1,2]}', '{"a": [1, 2]}', '{\n  "a": [\n    1\n  ]\n}', ' {"a":[1]}', '{"a":[1]}\n']
    assert [text for text in texts if admitted(text)] == outputs


@pytest.mark.parametrize(
    ("value", "code", "pointers"),
    [
        ({"type": "banana"}, ErrorCode.INVALID_CONSTRAINT, {"/schema/type"}),
        ({"type": "banana", "minimum": "x", "required": "a", "properties": []}, ErrorCode.INVALID_CONSTRAINT, None),
        ({"properties": {"a/b~": {"minLength": -1}}}, ErrorCode.INVALID_CONSTRAINT, {"/schema/properties/a~1b~0/minLength"}),
        ({"anyOf": [{}, {"pattern": 3}]}, ErrorCode.INVALID_CONSTRAINT, {"/schema/anyOf/1/pattern"}),
        ({"minItems": True}, ErrorCode.INVALID_CONSTRAINT, {"/schema/minItems"}),
        ({"$schema": 3}, ErrorCode.INVALID_CONSTRAINT, {"/schema/$schema"}),
        ({"$ref": "#/$defs/nope"}, ErrorCode.INVALID_CONSTRAINT, {"/schema/$ref"}),
        ({"$id": "http://[", "$ref": "x"}, ErrorCode.INVALID_CONSTRAINT, {"/schema"}),
        ({"$dynamicRef": {}, "type": 3, "$schema": DRAFT_7}, ErrorCode.INVALID_CONSTRAINT, {"/schema/type"}),
        ({"$ref": "http://example.com/x"}, ErrorCode.UNSUPPORTED_CONSTRAINT, {"/schema/$ref"}),
        ({"$ref": "#"}, ErrorCode.INVALID_CONSTRAINT, {"/schema"}),
        ({"$dynamicRef": "#"}, ErrorCode.INVALID_CONSTRAINT, {"/schema"}),
        ({"pattern": "("}, ErrorCode.INVALID_CONSTRAINT, {"/schema/pattern"}),
        ({"type": "integer", "minimum": 5, "maximum": 3}, ErrorCode.INVALID_CONSTRAINT, {"/schema/minimum"}),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, ErrorCode.INVALID_CONSTRAINT, {"/schema"}),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, ErrorCode.INVALID_CONSTRAINT, {"/schema/required/0"}),
        ({"enum": []}, ErrorCode.INVALID_CONSTRAINT, {"/schema"}),
        ({"not": {}}, ErrorCode.INVALID_CONSTRAINT, {"/schema"}),
        ({"x-guidance": {"lenient": True}}, ErrorCode.INVALID_CONSTRAINT, {"/schema/x-guidance"}),
        ({"pattern": "(?=a)"}, ErrorCode.UNSUPPORTED_CONSTRAINT, {"/schema/pattern"}),
        ({"uniqueItems": True}, ErrorCode.UNSUPPORTED_CONSTRAINT, {"/schema/uniqueItems"}),
        ({"not": {"multipleOf": 3}}, ErrorCode.UNSUPPORTED_CONSTRAINT, {"/schema/not/multipleOf"}),
        ({"properties": {"a": {}}, "minProperties": 2}, ErrorCode.UNSUPPORTED_CONSTRAINT, {"/schema/minProperties"}),
        ({"minItems": 10**9}, ErrorCode.CONSTRAINT_TOO_LARGE, {"/schema/minItems"}),
        ({"maxItems": 100_000}, ErrorCode.CONSTRAINT_TOO_LARGE, {"/schema/maxItems"}),
        ({"maxItems": LIMITS.array_bound + 1}, ErrorCode.CONSTRAINT_TOO_LARGE, {"/schema/maxItems"}),
        ({"items": {"anyOf": [{"minItems": 1e10}]}}, ErrorCode.CONSTRAINT_TOO_LARGE, {"/schema/items/anyOf/0/minItems"}),
        ({"type": "string", "maxLength": 10**18}, ErrorCode.CONSTRAINT_TOO_LARGE, {"/schema/maxLength"}),
        pytest.param({"$schema": "http://example.com/x"}, ErrorCode.UNSUPPORTED_CONSTRAINT, {"/schema/$schema"}),
    ],
    ids=lambda value: json.dumps(value)[:80] if isinstance(value, dict) else None,
)
def test_a_schema_that_cannot_be_enforced_is_refused_with_its_place(value: object, code: ErrorCode, pointers: set[str] | None) -> None:
    begun = time.process_time()
    compiled = COMPILER.compile(schema(value))
    assert is_sound(compiled)
    assert time.process_time() - begun < 3
    assert {error.code for error in compiled.report.errors} == {code}
    found = {error.pointer for error in compiled.report.errors}
    assert found == (pointers or {"/schema/type", "/schema/minimum", "/schema/required", "/schema/properties"})


def test_an_array_bound_at_the_limit_is_taken() -> None:
    admitted = admits(schema({"type": "array", "items": {"const": 1}, "minItems": 3, "maxItems": LIMITS.array_bound}))
    assert [length for length in range(6) if admitted(json.dumps([1] * length))] == [3, 4, 5]


WRAPS = ["{}", '{{"properties": {{"a": {}}}}}', '{{"x": 1, "$ref": "#/$defs/d", "$defs": {{"d": {}}}}}']


@pytest.mark.parametrize("keyword", ["uniqueItems", "pattern", "unevaluatedItems", "minProperties"])
@pytest.mark.parametrize("wrap", WRAPS)
def test_a_keyword_that_masks_cannot_enforce_is_refused_or_verified(keyword: str, wrap: str) -> None:
    inner: dict[str, Any] = {"uniqueItems": True} if keyword == "uniqueItems" else {"pattern": "(?=a)"}
    if keyword == "unevaluatedItems":
        inner = {"contains": {"type": "string"}, "unevaluatedItems": {"type": "integer"}}
    if keyword == "minProperties":
        inner = {"minProperties": 2}
    value = json.loads(wrap.format(json.dumps(inner)))
    [error] = COMPILER.compile(schema(value)).report.errors
    assert error.code == ErrorCode.UNSUPPORTED_CONSTRAINT
    assert keyword in error.message
    assert error.hint
    report = COMPILER.compile(schema(value, unsupported="verify")).report
    assert (report.accepted, report.guarantee) == (True, "verified")
    assert [one.pointer for one in report.relaxed] == [error.pointer]


@pytest.mark.parametrize(
    ("inner", "invalid"),
    [
        ({"not": {"type": "string"}}, "x"),
        ({"if": {"type": "string"}, "then": False}, "x"),
        ({"if": {"type": "string"}, "else": {"type": "null"}}, 1),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}),
        ({"dependentSchemas": {"a": {"required": ["b"]}}}, {"a": 1}),
        ({"contains": {"type": "string"}}, [1]),
        ({"contains": {"type": "string"}, "minContains": 2}, ["x", 1]),
        ({"contains": {"type": "string"}, "maxContains": 1}, ["x", "x"]),
        ({"propertyNames": {"pattern": "^x"}}, {"y": 1}),
        ({"unevaluatedProperties": {"type": "string"}}, {"a": 1}),
        ({"unevaluatedItems": {"type": "string"}}, [1]),
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("wrap", WRAPS)
def test_a_keyword_that_llguidance_does_not_know_is_enforced(inner: dict[str, Any], invalid: object, wrap: str) -> None:
    value = json.loads(wrap.format(json.dumps(inner)))
    admitted = admits(schema(value))
    instance = {"a": invalid} if "properties" in value else invalid
    assert not Draft202012Validator(value).is_valid(instance)
    assert not admitted(json.dumps(instance))
    assert admitted("null")


@pytest.mark.parametrize(
    ("draft", "value", "admitted", "rejected"),
    [
        ("http://json-schema.org/draft-04/schema#", {"minimum": 3, "exclusiveMinimum": True, "const": 1}, ["4"], ["3"]),
        ("http://json-schema.org/draft-04/schema#", {"id": "http://x/y", "definitions": {"a": {}}, "type": "integer"}, ["1"], ["null"]),
        ("http://json-schema.org/draft-06/schema#", {"const": 1, "if": {}, "then": False}, ["1"], ["2"]),
        ("http://json-schema.org/draft-06/schema#", {"propertyNames": {"maxLength": 1}}, ['{"a":1}'], ['{"ab":1}']),
        (DRAFT_7, {"dependencies": {"a": {"maxProperties": 1}, "b": ["c"]}}, ['{"a":1}', '{"b":1,"c":1}'], ['{"b":1}', '{"a":1,"d":1}']),
        (DRAFT_7, {"$ref": "#/definitions/d", "type": "null", "definitions": {"d": {"type": "integer"}}}, ["1"], ["null"]),
        (DRAFT_7, {"prefixItems": [False], "dependentRequired": {"a": ["b"]}}, ["[1]", '{"a":1}'], []),
        ("https://json-schema.org/draft/2019-09/schema", {"items": [{"type": "null"}], "additionalItems": False}, ["[null]"], ["[1]"]),
        (
            "https://json-schema.org/draft/2019-09/schema",
            {"properties": {"a": {"$recursiveRef": "#"}}, "type": "object"},
            ["{}"],
            ['{"a":1}'],
        ),
        ("https://json-schema.org/draft/2020-12/schema", {"items": {"type": "null"}, "dependencies": {"a": ["b"]}}, ["[null]"], ["[1]"]),
    ],
)
def test_a_draft_has_its_own_keywords(draft: str, value: dict[str, Any], admitted: list[str], rejected: list[str]) -> None:
    admit = admits(schema({"$schema": draft, **value}))
    assert [text for text in admitted + rejected if admit(text)] == admitted


@pytest.mark.parametrize(
    "weakened",
    [
        schema({"x-guidance": {"lenient": True}, "not": {}}),
        schema({"allOf": [{"x-guidance": {"lenient": True}, "not": {}}]}),
        lark('start: %json {"x-guidance": {"lenient": true}, "not": {}}'),
        lark('start: %json {"type": "banana"}'),
        pytest.param(lark(r'start: %json {"x\u002dguidance": {"lenient": true}, "not": {}}')),
        pytest.param(lark('start[max_tokens=1]: "a" "b" "c"')),
        pytest.param(lark('start[temperature=0.1]: "a"')),
        pytest.param(lark('%llguidance {"allow_invalid_utf8": true}\nstart: /a/')),
        pytest.param(lark('start: %json {"minimum": 1, "minimun": 2, "type": ["integer", "integer"]}')),
        pytest.param(schema({"$schema": "https://json-schema.org/draft/next/schema", "type": "integer"})),
        pytest.param('{"type": "json_schema", "schema": {"minimum": 5, "minimum": 0}}'),
        pytest.param('{"type": "regex", "pattern": "a", "pattern": ".*"}'),
    ],
)
def test_nothing_in_a_constraint_switches_enforcement_off(weakened: str) -> None:
    assert not COMPILER.compile(weakened).report.accepted


def test_options_of_llguidance_within_a_schema_are_only_unknown_keywords() -> None:
    value = {"properties": {"a": {"x-guidance": {"lenient": True}, "not": {"type": "integer"}}}}
    assert not admits(schema(value))('{"a": 1}')
    [warning] = COMPILER.compile(schema(value)).report.warnings
    assert (warning.code, warning.pointer) == ("unknown_keyword", "/schema/properties/a/x-guidance")


def test_what_is_no_keyword_of_the_draft_may_have_any_value() -> None:
    admitted = admits(schema({"$schema": DRAFT_7, "$dynamicRef": {"a": 1}, "prefixItems": 5, "$recursiveRef": 3, "type": "null"}))
    assert admitted("null")
    assert not admitted("1")


def test_all_faults_of_a_schema_are_told_at_once() -> None:
    value = {
        "properties": {
            "a": {"pattern": "("},
            "b": {"$ref": "#/$defs/nope"},
            "c": {"items": {"patternProperties": {"[": {}}}},
            "d": {"anyOf": [{"pattern": "*"}, {"$ref": "#/nowhere"}]},
        }
    }
    pointers = {error.pointer for error in COMPILER.compile(schema(value)).report.errors}
    assert pointers == {
        "/schema/properties/a/pattern",
        "/schema/properties/b/$ref",
        "/schema/properties/c/items/patternProperties",
        "/schema/properties/d/anyOf/0/pattern",
        "/schema/properties/d/anyOf/1/$ref",
    }
