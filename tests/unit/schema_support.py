"""Random schemas, random values, and random outputs of a schema's grammar."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

from llguidance import LLMatcher, LLTokenizer

TOKENIZER = LLTokenizer("byte")
NAMES = ("a", "b", "ab", "c")
STRINGS = ("", "a", "b", "ab", "abc", "x", "é", '"', "\n", "2024-02-29")
NUMBERS: tuple[int | float, ...] = (-3, -1, 0, 1, 2, 3, 4, 10, 0.5, -2.5, 1.25, 10.5)
PATTERNS = ("^a", "b$", "^[a-c]*$", "b", "^(a|x)$", "^$")


def random_value(choose: random.Random, depth: int = 2) -> Any:
    """A small JSON value."""
    kinds = ("null", "boolean", "number", "string") + (("array", "object") if depth else ())
    match choose.choice(kinds):
        case "null":
            return None
        case "boolean":
            return choose.random() < 0.5
        case "number":
            return choose.choice(NUMBERS)
        case "string":
            return choose.choice(STRINGS)
        case "array":
            return [random_value(choose, depth - 1) for _ in range(choose.randrange(4))]
        case _:
            names = choose.sample(NAMES, choose.randrange(4))
            return {name: random_value(choose, depth - 1) for name in names}


def random_schema(choose: random.Random, depth: int = 3) -> Any:
    """A schema of a few keywords, many of them at odds with each other."""
    if depth == 0 or choose.random() < 0.08:
        return choose.choice([True, True, {"type": choose.choice(["string", "integer", "object", "array"])}, {}])
    schema: dict[str, Any] = {}
    if choose.random() < 0.5:
        schema["type"] = choose.choice(
            ["object", "object", "array", "string", "number", "integer", "boolean", ["string", "null"], ["object", "integer"]]
        )
    for _ in range(choose.randrange(1, 4)):
        keyword = choose.choice(list(_KEYWORDS))
        schema[keyword] = _KEYWORDS[keyword](choose, depth - 1)
    if "if" in schema:
        schema[choose.choice(["then", "else"])] = random_schema(choose, depth - 1)
    return schema


def _names(choose: random.Random, depth: int) -> list[str]:
    return choose.sample(NAMES, choose.randrange(1, 3))


def _schemas(choose: random.Random, depth: int) -> list[Any]:
    return [random_schema(choose, depth) for _ in range(choose.randrange(1, 4))]


def _by_name(choose: random.Random, depth: int) -> dict[str, Any]:
    return {name: random_schema(choose, depth) for name in _names(choose, depth)}


def _by_pattern(choose: random.Random, depth: int) -> dict[str, Any]:
    return {pattern: random_schema(choose, depth) for pattern in choose.sample(PATTERNS, choose.randrange(1, 3))}


_KEYWORDS: dict[str, Any] = {
    "properties": _by_name,
    "patternProperties": _by_pattern,
    "additionalProperties": lambda choose, depth: choose.choice([False, random_schema(choose, depth)]),
    "required": _names,
    "minProperties": lambda choose, depth: choose.randrange(3),
    "maxProperties": lambda choose, depth: choose.randrange(4),
    "propertyNames": random_schema,
    "dependentRequired": lambda choose, depth: {name: _names(choose, depth) for name in _names(choose, depth)},
    "dependentSchemas": _by_name,
    "unevaluatedProperties": lambda choose, depth: choose.choice([False, random_schema(choose, depth)]),
    "items": random_schema,
    "prefixItems": _schemas,
    "minItems": lambda choose, depth: choose.randrange(3),
    "maxItems": lambda choose, depth: choose.randrange(4),
    "contains": random_schema,
    "minContains": lambda choose, depth: choose.randrange(3),
    "maxContains": lambda choose, depth: choose.randrange(1, 3),
    "unevaluatedItems": lambda choose, depth: choose.choice([False, random_schema(choose, depth)]),
    "uniqueItems": lambda choose, depth: True,
    "minimum": lambda choose, depth: choose.choice(NUMBERS),
    "maximum": lambda choose, depth: choose.choice(NUMBERS),
    "exclusiveMinimum": lambda choose, depth: choose.choice(NUMBERS),
    "exclusiveMaximum": lambda choose, depth: choose.choice(NUMBERS),
    "multipleOf": lambda choose, depth: choose.choice([1, 2, 3, 0.5]),
    "minLength": lambda choose, depth: choose.randrange(3),
    "maxLength": lambda choose, depth: choose.randrange(4),
    "pattern": lambda choose, depth: choose.choice(PATTERNS),
    "format": lambda choose, depth: "date",
    "const": lambda choose, depth: random_value(choose),
    "enum": lambda choose, depth: [random_value(choose) for _ in range(choose.randrange(1, 4))],
    "allOf": _schemas,
    "anyOf": _schemas,
    "oneOf": _schemas,
    "not": random_schema,
    "if": random_schema,
}


def new_matcher(lark: str) -> LLMatcher:
    """A matcher of a grammar over bytes."""
    matcher = LLMatcher(TOKENIZER, LLMatcher.grammar_from_lark(lark), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def admits(lark: str, text: str) -> bool:
    """Whether a grammar takes a text."""
    matcher, data = new_matcher(lark), list(text.encode())
    taken = matcher.validate_tokens(data)
    if taken < len(data):
        return False
    return bool(matcher.consume_tokens(data)) and bool(matcher.is_accepting())


def random_output(lark: str, choose: random.Random, most: int = 120) -> str | None:
    """A text that the masks lead to, or None where it has no end within ``most`` bytes; a dead end fails."""
    matcher, output = new_matcher(lark), bytearray()
    while len(output) < most:
        mask = matcher.compute_bitmask()
        assert not matcher.is_error(), (bytes(output), matcher.get_error().split("<state>")[0])
        allowed = [byte for byte in range(256) if mask[byte // 8] >> byte % 8 & 1]
        if matcher.is_accepting() and (not allowed or choose.random() < 0.5):
            return output.decode()
        preferred = [byte for byte in allowed if chr(byte) in '{}[],:"ab012.-' or byte > 127]
        # Towards the end, close what is open.
        closing = [byte for byte in allowed if chr(byte) in '}]"'] if len(output) > most // 2 else []
        byte = choose.choice(closing or preferred or allowed)
        output.append(byte)
        assert matcher.consume_token(byte)
    return None


def orders(value: Any) -> list[str]:
    """A value's texts with its properties in every order, up to some dozens."""
    return [json.dumps(ordered, ensure_ascii=False) for ordered in itertools.islice(_orders(value), 60)]


def _orders(value: Any) -> Any:
    if isinstance(value, list):
        return (list(items) for items in itertools.product(*(list(itertools.islice(_orders(item), 6)) for item in value)))
    if isinstance(value, dict):
        return (
            dict(zip(names, members, strict=True))
            for names in itertools.permutations(value)
            for members in itertools.product(*(list(itertools.islice(_orders(value[name]), 6)) for name in names))
        )
    return iter([value])
