"""Grammars: each kind of constraint in llguidance's terms."""

from __future__ import annotations

import json
from typing import Any, assert_never

from llguidance import LLMatcher

from ananke_client.constraint import ChoiceConstraint, Constraint, GrammarConstraint, JsonSchemaConstraint, RegexConstraint
from ananke_client.errors import ErrorCode
from ananke_server.constraints.lark import check_lark
from ananke_server.constraints.refusal import refuse
from ananke_server.constraints.schemas import check_schema

MAX_CHOICES = 10_000


def grammar_of(constraint: Constraint) -> str:
    """The constraint as a grammar for ``LLMatcher``; whether the grammar holds is for a matcher to say.

    Raises:
        Refusal: the constraint is one that llguidance would take for something else, or could not survive.
    """
    match constraint:
        case JsonSchemaConstraint():
            return _json_schema(constraint)
        case RegexConstraint():
            return LLMatcher.grammar_from_regex(constraint.pattern)
        case ChoiceConstraint():
            return _choice(constraint)
        case GrammarConstraint():
            check_lark(constraint.grammar)
            return LLMatcher.grammar_from_lark(constraint.grammar)
    assert_never(constraint)


def _json_schema(constraint: JsonSchemaConstraint) -> str:
    schema = constraint.schema_
    check_schema(schema)
    # Set here, llguidance's options win over an "x-guidance" of the schema's own, which could switch enforcement off.
    options: Any = {"whitespace_flexible": constraint.whitespace == "flexible", "lenient": False, "coerce_one_of": False}
    return LLMatcher.grammar_from_json_schema(json.dumps({} if schema is True else schema), None, options)


def _choice(constraint: ChoiceConstraint) -> str:
    if len(constraint.choices) > MAX_CHOICES:
        message = f"{len(constraint.choices):,} choices; at most {MAX_CHOICES:,} are taken"
        raise refuse(ErrorCode.CONSTRAINT_TOO_LARGE, message, pointer="/choices")
    # Lark's strings are JSON's.
    return LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(choice) for choice in constraint.choices))
