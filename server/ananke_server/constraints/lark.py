"""Lark grammars, looked over before llguidance sees them: what a mask cannot hold to is refused, schemas within are checked."""

from __future__ import annotations

import json
import re

from ananke_client.errors import ErrorCode
from ananke_server.constraints.parse import unique_object
from ananke_server.constraints.refusal import Refusal, refuse
from ananke_server.constraints.schemas import check_schema

MAX_RULES = 1_000
"""A chain of 4,000 rules crashes llguidance."""

_LITERAL = re.compile(r'//[^\n]*|"(?:[^"\\\n]|\\.)*"|/(?:[^/\\\n]|\\.)+/')
_INLINE_SCHEMA = re.compile(r"%json\s*")
_RULE = re.compile(r"^[?!]*[A-Za-z_]\w*(?:\[[^\]\n]*\])?\s*(?:\.\d+)?\s*:", re.MULTILINE)
# A rule cut off by max_tokens is accepted as it stands, temperature is not a mask's to set, and options relax checks.
_UNENFORCED = re.compile(r"%llguidance\b|\b(?:max_tokens|temperature)(?=\s*=)")


def check_lark(grammar: str) -> None:
    """Hold a grammar against the limits and what can be enforced; whether it is a grammar is for llguidance to say.

    Raises:
        Refusal: with the place of the fault.
    """
    if grammar.lstrip().startswith("{"):
        # llguidance's own JSON form, whose schemas would pass by our checks.
        raise refuse(ErrorCode.INVALID_CONSTRAINT, "the grammar is JSON, not Lark", pointer="/grammar")
    outside = _LITERAL.sub(lambda literal: " " * len(literal[0]), grammar)
    rules = sum(1 for _ in _RULE.finditer(outside))
    if rules > MAX_RULES:
        message = f"the grammar has {rules:,} rules; at most {MAX_RULES:,} are taken"
        raise refuse(ErrorCode.CONSTRAINT_TOO_LARGE, message, pointer="/grammar")
    if found := _UNENFORCED.search(outside):
        line, column = _place(grammar, found.start())
        message = f"{found[0]!r} is not taken: a mask could not hold to it"
        raise refuse(ErrorCode.UNSUPPORTED_CONSTRAINT, message, pointer="/grammar", line=line, column=column, hint="remove it")
    for found in _INLINE_SCHEMA.finditer(outside):
        _check_inline(grammar, found.end())


def _check_inline(grammar: str, start: int) -> None:
    line, column = _place(grammar, start)
    try:
        schema, _ = json.JSONDecoder(object_pairs_hook=unique_object).raw_decode(grammar, start)
        if isinstance(schema, dict):
            check_schema(schema)
    except Refusal as refusal:
        raise Refusal(
            [
                fault.model_copy(update={"pointer": "/grammar", "line": line, "column": column, "message": f"%json: {fault.message}"})
                for fault in refusal.diagnostics
            ]
        ) from None
    except (ValueError, RecursionError) as fault:
        raise refuse(ErrorCode.INVALID_CONSTRAINT, f"%json: {fault}", pointer="/grammar", line=line, column=column) from None


def _place(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
