"""Cases of constrained generation, each with a judge that shares nothing with the server's own matcher."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lark
from jsonschema import Draft202012Validator

from ananke_client import ChoiceConstraint, Constraint, GrammarConstraint, JsonSchemaConstraint, RegexConstraint


@dataclass(frozen=True)
class Case:
    """A prompt, its constraint, and how many tokens its longest sensible output takes."""

    name: str
    prompt: str
    constraint: Constraint
    max_tokens: int

    def judge(self, text: str) -> bool:
        """Whether a text satisfies the constraint, by jsonschema, ``re``, Lark or plain comparison."""
        return JUDGES[self.constraint.type](self.constraint, text)


def _judge_json(constraint: JsonSchemaConstraint, text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return Draft202012Validator(constraint.schema_).is_valid(value)


def _judge_regex(constraint: RegexConstraint, text: str) -> bool:
    return re.fullmatch(constraint.pattern, text) is not None


def _judge_choice(constraint: ChoiceConstraint, text: str) -> bool:
    return text in constraint.choices


def _judge_grammar(constraint: GrammarConstraint, text: str) -> bool:
    try:
        lark.Lark(constraint.grammar, parser="earley", lexer="dynamic_complete").parse(text)
    except lark.exceptions.LarkError:
        return False
    return True


JUDGES: dict[str, Callable[[Any, str], bool]] = {
    "json_schema": _judge_json,
    "regex": _judge_regex,
    "choice": _judge_choice,
    "grammar": _judge_grammar,
}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_WORD = {"type": "string", "minLength": 1, "maxLength": 12}

CASES = [
    Case(
        "API handler",
        "Describe an HTTP endpoint that returns one user, as JSON.",
        JsonSchemaConstraint(
            whitespace="compact",
            schema=_object(
                {
                    "method": {"enum": ["GET", "POST", "PUT", "DELETE"]},
                    "path": {"type": "string", "pattern": "^/[a-z]{1,12}(/[a-z]{1,12})?$"},
                    "status": {"type": "integer", "minimum": 100, "maximum": 599},
                    "cached": {"type": "boolean"},
                }
            ),
        ),
        100,
    ),
    Case(
        "nested record",
        "Write a record of a software developer as JSON.",
        JsonSchemaConstraint(
            whitespace="compact",
            schema=_object(
                {
                    "name": _WORD,
                    "languages": {"type": "array", "items": {"enum": ["python", "rust", "zig"]}, "minItems": 1, "maxItems": 3},
                    "address": _object({"city": _WORD, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}}),
                    "manager": {"anyOf": [{"type": "null"}, _WORD]},
                }
            ),
        ),
        140,
    ),
    Case(
        "numbers",
        "Five measurements as JSON:",
        JsonSchemaConstraint(
            whitespace="compact",
            schema={"type": "array", "items": {"type": "integer", "minimum": -99, "maximum": 999}, "minItems": 1, "maxItems": 5},
        ),
        60,
    ),
    Case(
        "pretty object",
        "The configuration file:",
        JsonSchemaConstraint(schema=_object({"debug": {"type": "boolean"}, "level": {"enum": ["info", "warning", "error"]}})),
        80,
    ),
    Case(
        "class definition",
        "A Python class with one method:\n",
        RegexConstraint(
            pattern=r"class [A-Z][a-z]{2,10}\(Base\):\n    def [a-z]{3,10}\(self\) -> (int|str|None):\n        return (0|''|None)\n"
        ),
        80,
    ),
    Case("version", "The next release is ", RegexConstraint(pattern=r"v[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{1,2}(-(alpha|beta|rc)\.[0-9])?"), 30),
    Case(
        "choice",
        "The best route for deleting a user is ",
        ChoiceConstraint(choices=["GET /users", "POST /users", "DELETE /users/{id}", 'HEAD "/größe"\n']),
        30,
    ),
    Case(
        "arithmetic",
        "An arithmetic expression: ",
        GrammarConstraint(
            grammar='start: term (OPERATOR term)? (OPERATOR term)?\nterm: NUMBER | "(" NUMBER OPERATOR NUMBER ")"\n'
            "OPERATOR: /[-+*\\/]/\nNUMBER: /[1-9][0-9]{0,3}/\n"
        ),
        60,
    ),
    Case(
        "query",
        "SQL for the names of all users: ",
        GrammarConstraint(
            grammar='start: "SELECT " columns " FROM " NAME condition? ";"\ncolumns: "*" | NAME ", " NAME | NAME\n'
            'condition: " WHERE " NAME " " COMPARISON " " NUMBER\nCOMPARISON: "=" | "<" | ">"\n'
            "NAME: /[a-z][a-z_]{0,9}/\nNUMBER: /[0-9]{1,3}/\n"
        ),
        60,
    ),
]
