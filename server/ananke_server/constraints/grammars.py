"""Grammars: each kind of constraint in llguidance's terms."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import assert_never

from llguidance import LLMatcher

from ananke_client.constraint import (
    ChoiceConstraint,
    CompositeConstraint,
    Constraint,
    GrammarConstraint,
    JsonSchemaConstraint,
    RegexConstraint,
    TokenMaskConstraint,
)
from ananke_client.errors import ErrorCode
from ananke_client.report import Diagnostic
from ananke_server.constraints.canonical import canonical_schema
from ananke_server.constraints.composite import composite_plan
from ananke_server.constraints.fragments import Fragment, terminal
from ananke_server.constraints.gbnf import gbnf_plan
from ananke_server.constraints.lark import check_lark
from ananke_server.constraints.lark_schemas import with_schemas
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.patterns import pattern_fault
from ananke_server.constraints.plan import Plan
from ananke_server.constraints.refusal import Refusal, refuse
from ananke_server.constraints.regex import RegexError, parse_regex
from ananke_server.constraints.schema import schema_grammar
from ananke_server.masking.program import Leaf

_FORCED_SUFFIX = re.compile(r"(?<!\\)(?:\.|\[\^[^\]]+\]|\[\\s\\S\])[*+]\)*((?:[A-Za-z0-9_ ]|\\[^\w\s])+)\)*\$?$")


def plan_of(constraint: Constraint, limits: Limits) -> Plan:
    """The constraint's plan; whether its grammars hold for a tokenizer is for a matcher to say.

    Raises:
        Refusal: the constraint cannot be enforced, with every fault found.
    """
    match constraint:
        case JsonSchemaConstraint():
            return _json_schema(constraint, limits)
        case RegexConstraint():
            return _regex(constraint)
        case ChoiceConstraint():
            return _choice(constraint, limits)
        case GrammarConstraint():
            return _grammar(constraint, limits)
        case TokenMaskConstraint():
            return _token_mask(constraint)
        case CompositeConstraint():
            return composite_plan(constraint, limits, plan_of)
    assert_never(constraint)


def _json_schema(constraint: JsonSchemaConstraint, limits: Limits) -> Plan:
    compiled = schema_grammar(
        canonical_schema(constraint.schema_), whitespace=constraint.whitespace, unsupported=constraint.unsupported, limits=limits
    )
    return Plan(
        (Fragment(compiled.lark, "json"),),
        warnings=tuple(compiled.warnings),
        relaxed=tuple(compiled.relaxed),
        rewritten=tuple(compiled.rewritten),
    )


def _regex(constraint: RegexConstraint) -> Plan:
    pattern = constraint.pattern
    try:
        regex = parse_regex(pattern, constraint.dialect)
        if regex.matches_nothing():
            raise refuse(ErrorCode.INVALID_CONSTRAINT, "no output can satisfy the pattern", pointer="/pattern")
        source = regex.full()
    except RegexError as fault:
        raise Refusal([pattern_fault(fault, pattern, "/pattern")]) from None
    return Plan((terminal(f"/{source}/"),), warnings=tuple(_suspicions(pattern)))


def _suspicions(pattern: str) -> Iterator[Diagnostic]:
    if found := _FORCED_SUFFIX.search(pattern):
        message = f"an unbounded string before the forced suffix {found[1]!r}: the output ends only where the model comes to write it"
        yield Diagnostic(code="suspicious", message=message, pointer="/pattern", hint="bound the repetition, like {0,200}")


def _choice(constraint: ChoiceConstraint, limits: Limits) -> Plan:
    if len(constraint.choices) > limits.enum:
        message = f"{len(constraint.choices):,} choices; at most {limits.enum:,} are taken"
        raise refuse(ErrorCode.CONSTRAINT_TOO_LARGE, message, pointer="/choices")
    # Lark's strings are JSON's.
    return Plan((terminal(" | ".join(json.dumps(choice) for choice in constraint.choices)),))


def _grammar(constraint: GrammarConstraint, limits: Limits) -> Plan:
    if constraint.syntax == "gbnf":
        return gbnf_plan(constraint.grammar, limits)
    warnings = check_lark(constraint.grammar, limits)
    expanded = with_schemas(constraint.grammar, limits)
    return Plan((Fragment(expanded.lark),), warnings=(*warnings, *expanded.warnings), rewritten=tuple(expanded.rewritten))


def _token_mask(constraint: TokenMaskConstraint) -> Plan:
    forbidden = set(constraint.forbidden or ())
    if constraint.allowed is None:
        ids = f"^{_ranges(sorted(forbidden))}" if forbidden else "*"
    else:
        allowed = sorted(set(constraint.allowed) - forbidden)
        if not allowed:
            message = "every allowed token is forbidden too: no output but the empty one is left"
            raise refuse(ErrorCode.INVALID_CONSTRAINT, message, pointer="/forbidden")
        ids = _ranges(allowed)
    return Plan(side_by_side=Leaf(LLMatcher.grammar_from_lark(f"start: <[{ids}]>*")))


def _ranges(ids: Sequence[int]) -> str:
    """Token ids in order, as Lark's ranges."""
    ranges: list[list[int]] = []
    for token in ids:
        if ranges and ranges[-1][1] == token - 1:
            ranges[-1][1] = token
        else:
            ranges.append([token, token])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
