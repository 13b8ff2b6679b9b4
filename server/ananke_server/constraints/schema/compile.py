"""The schema compiler: checks, builds and writes one schema's grammar."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import localcontext
from typing import Literal

from ananke_client.errors import ErrorCode
from ananke_client.report import Diagnostic
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.refusal import Refusal, refuse
from ananke_server.constraints.schema.build import Definitions, build
from ananke_server.constraints.schema.checks import check_schema, contradictions, warnings_of
from ananke_server.constraints.schema.document import Document
from ananke_server.constraints.schema.emit import Whitespace, emit
from ananke_server.constraints.schema.parts import Dropped
from ananke_server.drafts import Schema

VERIFY_HINT = 'rewrite it, or send "unsupported": "verify" to have the finished output checked instead'

DIGITS = 2_000
"""Digits to compute with: more than the sum, product or quotient of two numbers of a schema has, so that none is rounded."""


@dataclass(frozen=True, slots=True)
class SchemaGrammar:
    """A schema's grammar, and what its report has to say."""

    lark: str
    """Lark text with the rule ``start`` and without ``%ignore``."""
    relaxed: list[Diagnostic]
    rewritten: list[Diagnostic]
    warnings: list[Diagnostic]


def schema_grammar(
    schema: Schema,
    *,
    whitespace: Whitespace = "flexible",
    unsupported: Literal["refuse", "verify"] = "refuse",
    limits: Limits | None = None,
) -> SchemaGrammar:
    """Compile a schema.

    With ``unsupported="verify"`` the grammar of a schema that no mask can enforce admits more than the schema; ``relaxed``
    says which keywords are left to verification.

    Raises:
        Refusal: the schema is too large, is no schema, has no value, or cannot be enforced; every fault is listed.
    """
    check_schema(schema, limits or Limits())
    with localcontext(prec=DIGITS):
        return _compiled(schema, whitespace, unsupported)


def _compiled(schema: Schema, whitespace: Whitespace, unsupported: Literal["refuse", "verify"]) -> SchemaGrammar:
    document = Document.of(schema)
    definitions = build(document)
    if definitions.root and definitions.root not in definitions.parts:
        raise _unsatisfiable(schema)
    dropped = definitions.dropped()
    if dropped and unsupported == "refuse":
        raise Refusal([_unsupported(one) for one in dropped])
    return SchemaGrammar(
        lark=emit(definitions, whitespace),
        relaxed=[Diagnostic(code="verified", message=f"{name_of(one.origin)}: {one.reason}", pointer=one.origin) for one in dropped],
        rewritten=_rewritten(definitions, {one.origin for one in dropped}),
        warnings=warnings_of(document, definitions),
    )


def name_of(pointer: str) -> str:
    """The keyword that a pointer ends in."""
    return pointer.rpartition("/")[2] or "the schema"


def _unsupported(one: Dropped) -> Diagnostic:
    message = f"{name_of(one.origin)}: {one.reason}"
    hint = one.hint or VERIFY_HINT
    return Diagnostic(code=ErrorCode.UNSUPPORTED_CONSTRAINT, message=message, pointer=one.origin, hint=hint)


def _rewritten(definitions: Definitions, dropped: set[str]) -> list[Diagnostic]:
    return [
        Diagnostic(code="rewritten", message=f"{name_of(pointer)} is enforced {how}", pointer=pointer)
        for pointer, how in definitions.notes.items()
        if pointer not in dropped
    ]


def _unsatisfiable(schema: Schema) -> Refusal:
    found = contradictions(schema)
    if found:
        return Refusal(found)
    message = "no output can satisfy the constraint"
    return refuse(ErrorCode.INVALID_CONSTRAINT, message, pointer="/schema", hint="its parts contradict each other")
