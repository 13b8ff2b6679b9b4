"""Constraints as JSON texts, and what the compiler makes of them over a tokenizer of bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llguidance import LLTokenizer

from ananke_client.errors import ErrorCode
from ananke_server.constraints import CompiledConstraint, Compiler
from ananke_server.constraints.limits import Limits

TOKENIZER = LLTokenizer("byte")
COMPILER = Compiler(TOKENIZER)
LIMITS = Limits()
MODEL = Path(__file__).parents[2] / ".ananke/models/SmolLM2-135M-Instruct"
CODES = frozenset(ErrorCode)
DRAFT_7 = "http://json-schema.org/draft-07/schema#"


def constraint(kind: str, /, **fields: object) -> str:
    return json.dumps({"type": kind, **fields})


def regex(pattern: str) -> str:
    return constraint("regex", pattern=pattern)


def choice(*choices: str) -> str:
    return constraint("choice", choices=choices)


def lark(grammar: str) -> str:
    return constraint("grammar", grammar=grammar)


def schema(value: object, **options: object) -> str:
    return constraint("json_schema", schema=value, **options)


def admits(text: str) -> Any:
    """Whether the constraint of a text is satisfied by an output, as a function of the output."""
    compiled = COMPILER.compile(text)
    assert compiled.report.accepted, compiled.report
    assert compiled.grammar is not None
    return lambda output: COMPILER.satisfies_text(compiled.grammar, output)


def is_sound(compiled: CompiledConstraint) -> bool:
    """A report is either accepted with a grammar, a guarantee and a key, or refused with errors of the closed set."""
    report = compiled.report
    if report.accepted:
        return compiled.grammar is not None and report.guarantee == "exact" and report.key is not None and not report.errors
    placed = all(error.code in CODES and error.message for error in report.errors)
    return compiled.grammar is None and report.guarantee == "none" and bool(report.errors) and placed
