"""Good constraints of every kind, and as many distinct ones of their sort as a load needs."""

from __future__ import annotations

import json
from typing import Any

from cases import CASES

Json = dict[str, Any]


def _schema(schema: Any, **options: str) -> Json:
    return {"type": "json_schema", "schema": schema, **options}


def _object(properties: Json, **keywords: Any) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False, **keywords}


_WORD = {"type": "string", "minLength": 1, "maxLength": 12}
_REGEX = {"type": "regex", "pattern": "[a-z]{2,5}[0-9]+"}
_DRAFT = "http://json-schema.org/draft-07/schema#"

GOOD: list[Json] = [
    *(case.constraint.model_dump(by_alias=True) for case in CASES),
    _schema(True),
    _schema({"$schema": _DRAFT, "definitions": {"n": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/definitions/n"}}),
    _schema(
        {"$defs": {"tree": _object({"value": {"type": "number"}, "left": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]}})}}
        | {"$ref": "#/$defs/tree"}
    ),
    _schema({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]}, whitespace="compact"),
    _schema({"oneOf": [{"type": "string", "maxLength": 4}, {"type": "integer", "multipleOf": 5}]}),
    _schema({"type": "array", "prefixItems": [_WORD, {"type": "boolean"}], "items": False, "minItems": 2}),
    _schema({"type": "string", "format": "date-time"}),
    _schema({"type": "object", "patternProperties": {"^x-[a-z]+$": _WORD}, "minProperties": 1}, unsupported="verify"),
    _schema({"type": "array", "items": _WORD, "uniqueItems": True, "maxItems": 4}, unsupported="verify"),
    _schema(
        _object(
            {"kind": {"enum": ["a", "b"]}, "size": {"type": "integer"}},
            **{"if": {"properties": {"kind": {"const": "a"}}}, "then": {"properties": {"size": {"maximum": 5}}}},
        ),
        unsupported="verify",
    ),
    _schema({"not": {"type": "string"}}, unsupported="verify"),
    _REGEX,
    {"type": "regex", "pattern": r"^\d{4}-\d{2}$", "dialect": "ecma"},
    {"type": "regex", "pattern": r"(?i:get|post) /[\w/]*\s?(?:\p{L}+)?"},
    {"type": "choice", "choices": ["yes", "no", "größe 🐲"]},
    {"type": "grammar", "syntax": "lark", "grammar": 'start: "a" | "(" start ")"\n'},
    {"type": "grammar", "syntax": "gbnf", "grammar": 'root ::= item ("," item)*\nitem ::= [a-z]+ | "(" root ")"\n'},
    {"type": "token_mask", "allowed": [5, 6, 7, 100]},
    {"type": "token_mask", "forbidden": [0, 1, 2]},
    {"type": "composite", "mode": "any", "constraints": [_REGEX, {"type": "choice", "choices": ["yes", "no"]}]},
    {"type": "composite", "mode": "sequence", "constraints": [{"type": "choice", "choices": ["A: ", "B: "]}, _schema(_WORD)]},
    {"type": "composite", "mode": "all", "constraints": [_REGEX, {"type": "regex", "pattern": "[a-m]+[0-4]+"}]},
    {
        "type": "composite",
        "mode": "all",
        "constraints": [_schema({"type": "integer"}), {"type": "grammar", "grammar": "start: /[0-9]{2,4}/\n"}],
    },
    {"json_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}, "name": "flat", "priority": 3},
    {"grammar": 'start: "x"+\n', "regex_patterns": ["x{3,9}"], "token_mask": {"forbidden_tokens": [1]}},
    {"regex_patterns": [{"pattern": "def [a-z]+", "flags": ""}, "return"], "token_masks": {"allowed_tokens": [5, 6]}},
]


def distinct(index: int) -> str:
    """The constraint of this number, as JSON; no two numbers give one that means the same. About 100 to 700 bytes."""
    name = f"field_{index}"
    variants: list[Json] = [
        _schema(_object({name: {"type": "integer", "minimum": 0, "maximum": 1000}, "name": _WORD, "active": {"type": "boolean"}})),
        _schema({"type": "array", "items": _object({name: {"enum": ["GET", "POST", "PUT"]}, "path": {"type": "string"}}), "maxItems": 8}),
        _schema(
            _object(
                {
                    "id": {"const": index},
                    "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,8}$"}, "maxItems": 5},
                    "owner": _object(
                        {"email": {"type": "string", "maxLength": 40}, "age": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}
                    ),
                }
            ),
            whitespace="compact",
        ),
        {"type": "regex", "pattern": f"{name}: [a-z]{{2,8}}(, [a-z]{{2,8}})*"},
        {"type": "choice", "choices": [f"{name} {word}" for word in ("red", "green", "blue", "grey")]},
        {"type": "grammar", "syntax": "lark", "grammar": f'start: "{name} = " NUMBER (" + " NUMBER)*\nNUMBER: /[1-9][0-9]{{0,3}}/\n'},
    ]
    return json.dumps(variants[index % len(variants)], ensure_ascii=False)
