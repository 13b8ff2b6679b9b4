"""Grammars: each kind of constraint in llguidance's terms."""

from __future__ import annotations

import json
from typing import Any, assert_never

from jsonschema import Draft7Validator, Draft201909Validator, Draft202012Validator
from llguidance import LLMatcher

from ananke_client.constraint import ChoiceConstraint, Constraint, GrammarConstraint, JsonSchemaConstraint, RegexConstraint
from ananke_client.errors import ErrorCode
from ananke_client.report import Diagnostic
from ananke_server.constraints.refusal import Refusal, pointer_of, refuse

MAX_ARRAY_BOUND = 10_000
"""llguidance unrolls array bounds: at 10 million it takes seconds, at a billion it aborts the process."""

_DRAFTS: dict[str, Any] = {
    "http://json-schema.org/draft-07/schema": Draft7Validator,
    "https://json-schema.org/draft/2019-09/schema": Draft201909Validator,
    "https://json-schema.org/draft/2020-12/schema": Draft202012Validator,
}


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
            return LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(choice) for choice in constraint.choices))
        case GrammarConstraint():
            return _lark(constraint)
    assert_never(constraint)


def _json_schema(constraint: JsonSchemaConstraint) -> str:
    schema = constraint.schema_
    _check_schema(schema)
    # Set here, llguidance's options win over an "x-guidance" of the schema's own, which could switch enforcement off.
    options: Any = {"whitespace_flexible": constraint.whitespace == "flexible", "lenient": False, "coerce_one_of": False}
    return LLMatcher.grammar_from_json_schema(json.dumps(schema), None, options)


def _check_schema(schema: dict[str, Any] | bool) -> None:
    """Hold the schema against its draft's meta-schema, which llguidance does not, and its bounds against the limit."""
    if isinstance(schema, bool):
        return
    if "x-guidance" in schema:
        message = "'x-guidance' is not taken: options stand beside the constraint's 'type'"
        raise refuse(ErrorCode.INVALID_CONSTRAINT, message, pointer="/schema/x-guidance", hint="remove it")
    draft = _DRAFTS.get(str(schema.get("$schema", "")).rstrip("#"), Draft202012Validator)
    faults = [
        Diagnostic(code=ErrorCode.INVALID_CONSTRAINT, message=fault.message[:300], pointer=pointer_of(["schema", *fault.absolute_path]))
        for fault in draft(draft.META_SCHEMA).iter_errors(schema)
    ]
    if faults := faults or list(_large_bounds(schema)):
        raise Refusal(faults)


def _large_bounds(schema: dict[str, Any]) -> list[Diagnostic]:
    found = []
    pending: list[tuple[list[object], Any]] = [(["schema"], schema)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            pending.extend(([*path, key], child) for key, child in value.items())
            for keyword in ("minItems", "maxItems", "minContains", "maxContains"):
                bound = value.get(keyword)
                if isinstance(bound, int | float) and bound > MAX_ARRAY_BOUND:
                    message = f"{keyword} is {bound}; at most {MAX_ARRAY_BOUND:,} can be enforced"
                    pointer = pointer_of([*path, keyword])
                    found.append(Diagnostic(code=ErrorCode.CONSTRAINT_TOO_LARGE, message=message, pointer=pointer))
        elif isinstance(value, list):
            pending.extend(([*path, index], child) for index, child in enumerate(value))
    return found


def _lark(constraint: GrammarConstraint) -> str:
    if "x-guidance" in constraint.grammar:
        raise refuse(ErrorCode.INVALID_CONSTRAINT, "'x-guidance' is not taken within %json", pointer="/grammar", hint="remove it")
    if constraint.grammar.lstrip().startswith("{"):
        # LLMatcher takes llguidance's own JSON form too, whose schemas would pass by our checks.
        raise refuse(ErrorCode.INVALID_CONSTRAINT, "the grammar is JSON, not Lark", pointer="/grammar")
    return LLMatcher.grammar_from_lark(constraint.grammar)
