"""Keywords of JSON schemas by tables: texts that masks admit, and texts that they do not."""

from __future__ import annotations

import json
import random
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher
from schema_support import TOKENIZER, admits, random_output

from ananke_server.constraints.refusal import Refusal
from ananke_server.constraints.schema import schema_grammar
from ananke_server.constraints.schema.numbers import expression
from ananke_server.constraints.schema.parts import Interval

Table = list[tuple[dict[str, Any], list[str], list[str]]]


def closed(*required: str, **properties: Any) -> dict[str, Any]:
    """An object of these properties alone."""
    return {"type": "object", "properties": properties, "required": list(required or properties), "additionalProperties": False}


CIRCLE, SQUARE = closed(kind={"const": "circle"}, r={"type": "number"}), closed(kind={"const": "square"}, side={"type": "number"})
CHAIN: dict[str, Any] = {
    "type": "object",
    "properties": {"kind": {"enum": ["a", "b", "c"]}, "n": {}},
    "required": ["kind"],
    "if": {"properties": {"kind": {"const": "a"}}},
    "then": {"properties": {"n": {"type": "integer"}}, "required": ["n"]},
    "else": {
        "if": {"properties": {"kind": {"const": "b"}}},
        "then": {"properties": {"n": {"type": "string"}}},
        "else": {"maxProperties": 1},
    },
}
TREE = {"type": "object", "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}

EXACT: Table = [
    # multipleOf
    ({"type": "integer", "multipleOf": 7}, ["0", "7", "-7", "700000000000000000000000"], ["1", "-6", "7.5", "3.5"]),
    ({"type": "number", "multipleOf": 0.01}, ["0.01", "19.99", "-3", "1.10"], ["0.001", "19.995"]),
    ({"type": "number", "multipleOf": 0.5, "minimum": -1, "maximum": 1}, ["-1", "-0.5", "0", "0.5", "1"], ["-1.5", "1.5", "0.25"]),
    ({"type": "integer", "multipleOf": 4, "allOf": [{"multipleOf": 6}], "minimum": 1}, ["12", "24", "120"], ["0", "4", "6", "18", "-12"]),
    ({"type": "integer", "multipleOf": 0.3}, ["3", "0", "-6"], ["1", "0.3", "0.6"]),
    ({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 7, "multipleOf": 2}, ["4", "6"], ["2", "8", "5"]),
    # numbers
    ({"minimum": 2**53 + 1, "maximum": 2**53 + 3, "type": "integer"}, [str(2**53 + 1), str(2**53 + 3)], [str(2**53), str(2**53 + 4)]),
    ({"const": 2**53 + 1}, [str(2**53 + 1)], [str(2**53), str(2**53 + 2)]),
    ({"type": "number", "minimum": 1e20}, ["1" + "0" * 20, "1" + "0" * 19 + "1.5"], ["9" * 20, "0"]),
    ({"type": "integer", "not": {"enum": [0, 5]}}, ["1", "-5", "50"], ["0", "5", "-0"]),
    ({"type": "number", "not": {"type": "integer"}}, ["0.5", "-1.25"], ["1", "1.0", "0.0", "10e-1"]),
    ({"type": "number", "not": {"minimum": 0}}, ["-1", "-0.001"], ["0", "1", "-0", "-0.0"]),
    # contains
    ({"type": "array", "contains": {"type": "null"}}, ["[null]", "[1, null, 2]"], ["[]", "[1]"]),
    (
        {"type": "array", "items": {"type": ["integer", "null"]}, "contains": {"type": "null"}, "minContains": 2, "maxContains": 3},
        ["[null, null]", "[1, null, null, 2, null]"],
        ["[null]", "[null, null, null, 1, null]", '[null, null, ""]'],
    ),
    ({"type": "array", "contains": {"const": 1}, "minContains": 0, "maxContains": 1}, ["[]", "[1]", "[2, 1, 2]"], ["[1, 1]", "[1, 2, 1]"]),
    ({"type": "array", "contains": {"minimum": 5}, "maxItems": 2}, ["[5]", "[1, 7]"], ["[]", "[1, 2]", "[1, 2, 7]"]),
    (
        {"type": "array", "prefixItems": [{"type": "string"}, {}], "items": False, "contains": {"type": "integer"}},
        ['["", 1]'],
        ["[]", '[""]', '["", ""]', "[1]"],
    ),
    ({"type": "array", "not": {"contains": {"type": "string"}}}, ["[]", "[1]"], ['[""]', '[1, ""]']),
    # the number of properties
    (closed("a", a={}, b={}, c={}) | {"minProperties": 2}, ['{"a":1,"b":2}', '{"a":1,"c":2}'], ['{"a":1}', '{"b":1,"c":2}']),
    (closed("a", a={}, b={}, c={}) | {"maxProperties": 2}, ['{"a":1}', '{"a":1,"c":2}'], ['{"a":1,"b":2,"c":3}', "{}"]),
    ({"type": "object", "properties": {"a": {}}, "maxProperties": 1}, ["{}", '{"a":1}', '{"z":1}'], ['{"a":1,"z":1}', '{"y":1,"z":1}']),
    ({"type": "object", "minProperties": 1}, ['{"a":1}'], ["{}"]),
    ({"type": "object", "required": ["a"], "minProperties": 2}, ['{"a":1,"b":2}'], ['{"a":1}', '{"b":1,"c":2}', '{"a":1,"a":2}']),
    # oneOf, if
    (
        {"oneOf": [CIRCLE, SQUARE]},
        ['{"kind":"circle","r":1}', '{"kind":"square","side":2}'],
        ['{"kind":"circle","side":1}', '{"kind":"oval","r":1}', '{"kind":"circle"}', '{"kind":"circle","r":1,"side":2}'],
    ),
    ({"type": "integer", "oneOf": [{"minimum": 3}, {"maximum": 5}]}, ["2", "6"], ["3", "4", "5"]),
    ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, ["1", "2.5", '""'.replace('""', "0")], ["2", "3", "1.5"]),
    (
        CHAIN,
        ['{"kind":"a","n":1}', '{"kind":"b","n":""}', '{"kind":"b"}', '{"kind":"c"}'],
        ['{"kind":"a"}', '{"kind":"a","n":""}', '{"kind":"b","n":1}', '{"kind":"c","n":1}', '{"kind":"d"}', "{}"],
    ),
    (
        {"if": {"required": ["a"]}, "then": {"required": ["b"]}, "type": "object"},
        ["{}", '{"b":1}', '{"a":1,"b":2}'],
        ['{"a":1}', '{"c":1,"a":1}'],
    ),
    # unevaluated
    (
        {
            "properties": {"a": {}},
            "anyOf": [{"properties": {"b": {"type": "null"}}, "required": ["b"]}, True],
            "unevaluatedProperties": False,
            "type": "object",
        },
        ["{}", '{"a":1}', '{"a":1,"b":null}'],
        ['{"b":1}', '{"c":1}'],
    ),
    (
        {
            "$ref": "#/$defs/d",
            "properties": {"b": {}},
            "unevaluatedProperties": {"type": "null"},
            "$defs": {"d": {"type": "object", "properties": {"a": {}}}},
        },
        ['{"b":1,"a":2}', '{"z":null}'],
        ['{"z":1}', "1"],
    ),
    (
        {
            "type": "object",
            "if": {"properties": {"k": {"const": 1}}, "required": ["k"]},
            "then": {"properties": {"a": {}}},
            "unevaluatedProperties": False,
        },
        ["{}", '{"k":1}', '{"k":1,"a":2}'],
        ['{"k":2}', '{"a":1}', '{"k":2,"a":1}'],
    ),
    (
        {
            "type": "array",
            "anyOf": [{"prefixItems": [{"type": "null"}]}, {"prefixItems": [{"type": "integer"}, {"type": "integer"}]}],
            "unevaluatedItems": False,
        },
        ["[]", "[null]", "[1, 2]", "[1]"],
        ["[null, 1]", "[1, 2, 3]", '[""]'],
    ),
    # names
    ({"type": "object", "propertyNames": {"pattern": "^x"}}, ["{}", '{"x":1,"xy":2}'], ['{"y":1}', '{"":1}']),
    ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, ["{}", '{"a":1,"b":2}'], ['{"c":1}']),
    ({"type": "object", "propertyNames": {"maxLength": 2}}, ['{"ab":1}', '{"é\\n":1}'], ['{"abc":1}']),
    ({"type": "object", "propertyNames": {"not": {"const": "a"}}}, ['{"b":1}', '{"aa":1}'], ['{"a":1}', '{"\\u0061":1}']),
    (
        {"type": "object", "properties": {"ab": {"type": "integer"}}, "patternProperties": {"^a": {"minimum": 3}, "b$": {"maximum": 5}}},
        ['{"ab":4}', '{"a":9}', '{"b":1}', '{"aab":4.5}', '{"c":null}', '{"a":null}'],
        ['{"ab":4.5}', '{"ab":2}', '{"ab":6}', '{"a":2}', '{"b":6}', '{"axb":6}', '{"axb":2}'],
    ),
    ({"type": "object", "patternProperties": {"^a": {}}, "additionalProperties": False}, ['{"a":1,"ab":2}'], ['{"b":1}', '{"ba":1}']),
    # references
    ({**TREE, "$defs": {"tree": TREE}}, ['{"kids":[{"v":1,"kids":[]},{}]}'], ['{"kids":[{"v":""}]}', '{"kids":{}}']),
    ({"$ref": "#/$defs/a%20b~1c", "$defs": {"a b/c": {"type": "null"}}}, ["null"], ["1"]),
    ({"$id": "http://x.y/z", "$ref": "part", "$defs": {"p": {"$id": "part", "type": "null"}}}, ["null"], ["1"]),
    # constants
    ({"not": {"const": {"a": 1}}, "type": "object"}, ["{}", '{"a":2}', '{"a":1,"b":1}'], ['{"a":1}', '{"a":1.0}', '{"a":1e0}']),
    ({"const": [1, {"a": None}]}, ['[1, {"a": null}]'], ["[1]", '[1, {"a": 1}]', "[1, {}]"]),
    ({"enum": ["a", 1, None]}, ['"a"', "1", "null"], ['"b"', "2", "true"]),
]


@pytest.mark.parametrize(("schema", "admitted", "rejected"), EXACT, ids=[json.dumps(row[0])[:70] for row in EXACT])
def test_an_exact_mask_admits_these_and_not_those(schema: dict[str, Any], admitted: list[str], rejected: list[str]) -> None:
    grammar = schema_grammar(schema)
    assert not grammar.relaxed
    assert [text for text in admitted + rejected if admits(grammar.lark, text)] == admitted


# Schemas that were compiled wrongly once: values that nothing leads to the end of, repeated names, dependencies of both kinds.
ONCE_WRONG: Table = [
    (
        {
            "properties": {
                "x": {
                    "type": "array",
                    "prefixItems": [{"type": "string"}, {}],
                    "items": False,
                    "contains": {"type": "integer"},
                    "minContains": 2,
                }
            }
        },
        ["{}"],
        ['{"x":[]}', '{"x":["", 1]}', '{"x":1}'],
    ),
    (
        {
            "properties": {
                "x": {
                    "type": "object",
                    "propertyNames": {"pattern": "^b"},
                    "patternProperties": {"^a": {}},
                    "additionalProperties": False,
                    "minProperties": 1,
                }
            }
        },
        ["{}"],
        ['{"x":{}}', '{"x":{"a":1}}', '{"x":{"b":1}}', '{"x":1}'],
    ),
    (
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "dependencies": {"a": {"maxProperties": 2}, "b": ["c"]}},
        ["{}", '{"a":1,"z":1}', '{"b":1,"c":1}'],
        ['{"b":1}', '{"a":1,"y":1,"z":1}'],
    ),
    ({"type": "integer", "exclusiveMinimum": 10**40}, [str(10**40 + 1)], [str(10**40), str(10**40 - 1)]),
    ({"maximum": -(10**40) - 1, "type": "integer"}, [str(-(10**40) - 1)], [str(-(10**40))]),
    ({"prefixItems": [{"const": index} for index in range(120)], "type": "array"}, ["[]", "[0,1,2]", json.dumps([*range(120)])], ["[1]"]),
]


@pytest.mark.parametrize(("schema", "admitted", "rejected"), ONCE_WRONG, ids=range(len(ONCE_WRONG)))
def test_what_was_wrong_once_stays_right(schema: dict[str, Any], admitted: list[str], rejected: list[str]) -> None:
    grammar = schema_grammar(schema)
    assert not grammar.relaxed
    assert [text for text in admitted + rejected if admits(grammar.lark, text)] == admitted
    # Whatever is begun can be ended.
    for seed in range(4):
        random_output(grammar.lark, random.Random(seed))


@pytest.mark.parametrize(
    ("schema", "pointer", "valid"),
    [
        ({"type": "object", "minProperties": 2}, "/schema/minProperties", '{"a":1,"b":2}'),
        ({"type": "object", "not": {"additionalProperties": {"type": "string"}}}, "/schema/not/additionalProperties", '{"a":"","b":2}'),
        ({"type": "array", "uniqueItems": True}, "/schema/uniqueItems", "[1,2]"),
        ({"type": "array", "contains": {"const": 1}, "minContains": 100, "maxItems": 200}, "/schema/contains", json.dumps([1] * 100)),
        ({"type": "integer", "multipleOf": 7, "minimum": 2**53 + 1}, "/schema/minimum", "9007199254740995"),
        ({"type": "number", "multipleOf": 1e-300}, "/schema/multipleOf", "1"),
        ({"type": "number", "multipleOf": 1234567}, "/schema/multipleOf", "1234567"),
        ({"type": "string", "pattern": "(?=a)"}, "/schema/pattern", '"a"'),
    ],
)
def test_what_no_mask_can_tell_is_relaxed_and_named(schema: dict[str, Any], pointer: str, valid: str) -> None:
    grammar = schema_grammar(schema, unsupported="verify")
    assert [one.pointer for one in grammar.relaxed] == [pointer]
    assert admits(grammar.lark, valid)
    with pytest.raises(Refusal):
        schema_grammar(schema)


# Numbers, judged by decimal comparison.

DECIMALS = (
    st.decimals(min_value=-1000, max_value=1000, places=3)
    | st.decimals(allow_nan=False, allow_infinity=False, places=12)
    | st.sampled_from(
        [Decimal(0), Decimal("0.1"), Decimal("-0.0"), Decimal("9.99"), Decimal(10) ** 30, Decimal(-1), Decimal("1e-20"), Decimal("99.5")]
    )
)


def spelled(number: Decimal) -> list[str]:
    """A number's texts without an exponent: as it is, and with zeros at its end."""
    text = f"{number:f}"
    plain = text.rstrip("0").rstrip(".") if "." in text else text
    return [plain, plain + ("0" if "." in plain else ".00")]


@given(
    st.none() | DECIMALS,
    st.none() | DECIMALS,
    st.booleans(),
    st.booleans(),
    st.sampled_from([True, False, None]),
    st.lists(DECIMALS, max_size=6),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_numbers_are_compared_as_decimals_are(
    low: Decimal | None, high: Decimal | None, low_exclusive: bool, high_exclusive: bool, integral: bool | None, numbers: list[Decimal]
) -> None:
    interval = Interval(low, low_exclusive, high, high_exclusive)
    near = [limit + step for limit in (low, high) if limit is not None for step in (0, 1, -1, Decimal("1e-15"), Decimal("-1e-15"))]
    lark = f"start: T\nT: {expression(interval, integral)}"
    matcher = LLMatcher(TOKENIZER, LLMatcher.grammar_from_lark(lark), log_level=0)
    if matcher.is_error():
        # An interval without numbers.
        return
    for number in [*numbers, *near, Decimal(0)]:
        inside = (low is None or number > low or (number == low and not low_exclusive)) and (
            high is None or number < high or (number == high and not high_exclusive)
        )
        whole = number == number.to_integral_value()
        for index, text in enumerate(spelled(number)):
            # An integer is written without a fraction.
            expected = inside and (integral is None or (whole and index == 0 if integral else not whole))
            assert admits(lark, text) == expected, (text, interval, integral)


# Hostile schemas: in bounded time, whatever comes of them.


def nested(step: Any, levels: int, leaf: Any) -> Any:
    """A schema of many levels."""
    for level in range(levels):
        leaf = step(leaf, level)
    return leaf


HOSTILE: dict[str, Any] = {
    "deep allOf": nested(lambda inner, level: {"allOf": [inner, {"minimum": level}]}, 60, {"type": "integer"}),
    "deep anyOf": nested(lambda inner, level: {"anyOf": [inner, {"minimum": level}]}, 60, {"type": "integer"}),
    "deep oneOf": nested(lambda inner, level: {"oneOf": [inner, {"required": [f"p{level}"]}]}, 30, {"type": "object"}),
    "deep if": nested(lambda inner, level: {"if": {"required": [f"k{level}"]}, "then": inner, "else": {"type": "object"}}, 40, True),
    "deep not": nested(lambda inner, level: {"not": inner}, 60, {"type": "integer"}),
    "64 closed branches": {"oneOf": [closed(kind={"const": index}, **{f"v{index}": {}}) for index in range(64)]},
    "64 open branches": {"oneOf": [{"type": "object", "required": [f"v{index}"]} for index in range(64)]},
    "64 unevaluated branches": {"unevaluatedProperties": False, "anyOf": [{"properties": {f"v{index}": {}}} for index in range(64)]},
    "30 patterns of names": {"type": "object", "patternProperties": {f"^p{index}.*x": {"minimum": index} for index in range(30)}},
    "30 dependencies": {"type": "object", "dependentRequired": {f"a{index}": [f"b{index}"] for index in range(30)}},
    "mutual references": {
        "$ref": "#/$defs/d0",
        "$defs": {
            f"d{index}": {"properties": {f"a{other}": {"$ref": f"#/$defs/d{(index * 7 + other) % 60}"} for other in range(20)}}
            for index in range(60)
        },
    },
    "a product of references": {
        "allOf": [{"properties": {"a": {"$ref": f"#/$defs/d{index}"}}} for index in range(14)],
        "$defs": {
            f"d{index}": {"properties": {name: {"$ref": f"#/$defs/d{(index * step + 1) % 14}"} for name, step in (("x", 1), ("y", 3))}}
            for index in range(14)
        },
    },
    "many counted": {"type": "array", "contains": {"const": 1}, "minContains": 5000, "maxItems": 10_000},
    "many items": {"items": {"items": {"items": {"type": "integer"}, "maxItems": 10_000}, "maxItems": 10_000}, "maxItems": 10_000},
    "many excluded": {"type": "string", "not": {"enum": [f"s{index}" for index in range(1000)]}},
    "many digits": {"type": "integer", "minimum": 10**390, "maximum": 10**399},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_takes_bounded_time(name: str) -> None:
    begun = time.process_time()
    assert schema_grammar(HOSTILE[name], unsupported="verify").lark
    assert time.process_time() - begun < 2
