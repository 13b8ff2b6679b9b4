"""Random schemas, random values, and random outputs of a schema's grammar."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from llguidance import LLMatcher, LLTokenizer

TOKENIZER = LLTokenizer("byte")
NAMES = ("a", "b", "ab", "c")
STRINGS = ("", "a", "b", "ab", "abc", "x", "é", '"', "\n", "2024-02-29")
NUMBERS: tuple[int | float, ...] = (-3, -1, 0, 1, 2, 3, 4, 10, 0.5, -2.5, 1.25, 10.5)
DEFINITIONS = ("x", "y", "z")
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


@dataclass(frozen=True, slots=True)
class SchemaMaker:
    """Makes random schemas of a few keywords each, many of them at odds with each other."""

    choose: random.Random
    keywords: dict[str, Keyword]

    def schema(self, depth: int) -> Any:
        choose = self.choose
        if depth == 0 or choose.random() < 0.08:
            return choose.choice([True, True, {"type": choose.choice(["string", "integer", "object", "array"])}, {}])
        schema: dict[str, Any] = {}
        if choose.random() < 0.5:
            schema["type"] = choose.choice(
                ["object", "object", "array", "string", "number", "integer", "boolean", ["string", "null"], ["object", "integer"]]
            )
        for _ in range(choose.randrange(1, 4)):
            keyword = choose.choice(list(self.keywords))
            schema[keyword] = self.keywords[keyword](self, depth - 1)
        if "if" in schema:
            schema[choose.choice(["then", "else"])] = self.schema(depth - 1)
        return schema

    def names(self, depth: int) -> list[str]:
        return self.choose.sample(NAMES, self.choose.randrange(1, 3))

    def schemas(self, depth: int) -> list[Any]:
        return [self.schema(depth) for _ in range(self.choose.randrange(1, 4))]

    def by_name(self, depth: int) -> dict[str, Any]:
        return {name: self.schema(depth) for name in self.names(depth)}

    def by_pattern(self, depth: int) -> dict[str, Any]:
        return {pattern: self.schema(depth) for pattern in self.choose.sample(PATTERNS, self.choose.randrange(1, 3))}

    def dependencies(self, depth: int) -> dict[str, Any]:
        return {name: self.choose.choice([self.names(depth), self.schema(depth)]) for name in self.names(depth)}

    def number(self, depth: int) -> int | float:
        return self.choose.choice(NUMBERS)

    def count(self, depth: int) -> int:
        return self.choose.randrange(4)


Keyword = Callable[[SchemaMaker, int], Any]


def random_schema(choose: random.Random, depth: int = 3) -> Any:
    """A schema of draft 2020-12 without references."""
    return SchemaMaker(choose, _MODERN).schema(depth)


def random_document(choose: random.Random, depth: int = 3) -> Any:
    """A schema of draft 2020-12 with definitions that refer to each other and to themselves."""
    maker = SchemaMaker(choose, _REFERRING)
    root = {**_as_dict(maker.schema(depth)), "$defs": {name: maker.schema(2) for name in DEFINITIONS}}
    return root if "$ref" in json.dumps(root) else {"$ref": f"#/$defs/{DEFINITIONS[0]}", **root}


def random_draft7(choose: random.Random, depth: int = 3) -> Any:
    """A schema of draft 7, with its own forms of ``items`` and ``dependencies``."""
    return {"$schema": "http://json-schema.org/draft-07/schema#", **_as_dict(SchemaMaker(choose, _DRAFT7).schema(depth))}


def _as_dict(schema: Any) -> dict[str, Any]:
    return {} if schema is True else dict(schema)


_COMMON: dict[str, Keyword] = {
    "properties": SchemaMaker.by_name,
    "patternProperties": SchemaMaker.by_pattern,
    "additionalProperties": lambda maker, depth: maker.choose.choice([False, maker.schema(depth)]),
    "required": SchemaMaker.names,
    "minProperties": SchemaMaker.count,
    "maxProperties": SchemaMaker.count,
    "propertyNames": SchemaMaker.schema,
    "items": SchemaMaker.schema,
    "minItems": SchemaMaker.count,
    "maxItems": SchemaMaker.count,
    "contains": SchemaMaker.schema,
    "uniqueItems": lambda maker, depth: True,
    "minimum": SchemaMaker.number,
    "maximum": SchemaMaker.number,
    "exclusiveMinimum": SchemaMaker.number,
    "exclusiveMaximum": SchemaMaker.number,
    "multipleOf": lambda maker, depth: maker.choose.choice([1, 2, 3, 0.5]),
    "minLength": SchemaMaker.count,
    "maxLength": SchemaMaker.count,
    "pattern": lambda maker, depth: maker.choose.choice(PATTERNS),
    "format": lambda maker, depth: "date",
    "const": lambda maker, depth: random_value(maker.choose),
    "enum": lambda maker, depth: [random_value(maker.choose) for _ in range(maker.choose.randrange(1, 4))],
    "allOf": SchemaMaker.schemas,
    "anyOf": SchemaMaker.schemas,
    "oneOf": SchemaMaker.schemas,
    "not": SchemaMaker.schema,
    "if": SchemaMaker.schema,
}
_MODERN: dict[str, Keyword] = _COMMON | {
    "dependentRequired": lambda maker, depth: {name: maker.names(depth) for name in maker.names(depth)},
    "dependentSchemas": SchemaMaker.by_name,
    "unevaluatedProperties": lambda maker, depth: maker.choose.choice([False, maker.schema(depth)]),
    "prefixItems": SchemaMaker.schemas,
    "minContains": SchemaMaker.count,
    "maxContains": lambda maker, depth: maker.choose.randrange(1, 3),
    "unevaluatedItems": lambda maker, depth: maker.choose.choice([False, maker.schema(depth)]),
}
_REFERRING: dict[str, Keyword] = _MODERN | {
    "$ref": lambda maker, depth: maker.choose.choice(["#", *(f"#/$defs/{name}" for name in DEFINITIONS)]),
}
_DRAFT7: dict[str, Keyword] = _COMMON | {
    "items": lambda maker, depth: maker.choose.choice([maker.schema, maker.schemas])(depth),
    "additionalItems": lambda maker, depth: maker.choose.choice([False, maker.schema(depth)]),
    "dependencies": SchemaMaker.dependencies,
}


def refers_to_itself(document: Any) -> bool:
    """Whether a reference leads back to its own schema without a property or an item in between: jsonschema has no end there."""

    def leads_back(schema: Any, above: tuple[str, ...]) -> bool:
        if not isinstance(schema, dict):
            return False
        reference = schema.get("$ref")
        if reference in above:
            return True
        inner = [schema[keyword] for keyword in ("not", "if", "then", "else") if keyword in schema]
        inner += [part for keyword in ("allOf", "anyOf", "oneOf") for part in schema.get(keyword, ())]
        inner += schema.get("dependentSchemas", {}).values()
        if any(leads_back(part, above) for part in inner):
            return True
        return reference is not None and leads_back(_target(document, reference), (*above, reference))

    places = ["#", *(f"#/$defs/{name}" for name in DEFINITIONS)]
    return any(leads_back(_target(document, place), (place,)) for place in places)


def _target(document: Any, reference: str) -> Any:
    return document if reference == "#" else document["$defs"][reference.rpartition("/")[2]]


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


def orders(value: Any, most: int = 400) -> Iterator[str]:
    """A value's texts with its properties in every order, as far as ``most`` go."""
    return (json.dumps(ordered, ensure_ascii=False) for ordered in itertools.islice(_orders(value), most))


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


def odd_text(value: Any, choose: random.Random) -> str:
    """A value's text as few would write it: names escaped, numbers in other forms, properties repeated."""
    match value:
        case dict():
            members = list(value.items())
            if members and choose.random() < 0.4:
                members.insert(choose.randrange(len(members) + 1), (choose.choice(members)[0], random_value(choose, 1)))
            return "{" + ",".join(f"{_odd_string(name, choose)}:{odd_text(member, choose)}" for name, member in members) + "}"
        case list():
            return "[" + ", ".join(odd_text(item, choose) for item in value) + "]"
        case str():
            return _odd_string(value, choose)
        case bool() | None:
            return json.dumps(value)
    form = choose.choice(["{}", "{}", "{}e0", "{}E-00"] + (["{}.0", "{}.00e0", "{}0e-1"] if isinstance(value, int) else ["{}0"]))
    return form.format(value)


def _odd_string(text: str, choose: random.Random) -> str:
    if choose.random() < 0.4:
        return '"' + "".join(f"\\u{ord(character):04x}" for character in text) + '"'
    return json.dumps(text, ensure_ascii=False)


def exact_json(text: str, *, first: bool = False) -> Any:
    """A JSON text with its numbers as written; ``first``: of a repeated property the first value counts, not the last."""

    def collected(members: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(reversed(members)) if first else dict(members)

    return json.loads(text, parse_float=_exact_number, object_pairs_hook=collected)


def _exact_number(text: str) -> int | Decimal:
    number = Decimal(text)
    return int(number) if abs(number.adjusted()) < 400 and number == number.to_integral_value() else number
