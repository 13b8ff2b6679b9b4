"""Inline schemas of Lark grammars: every ``%json {...}`` becomes a rule by our own compiler of schemas, whose promises are stricter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ananke_client.errors import ErrorCode
from ananke_client.report import Diagnostic
from ananke_server.constraints.lark_tokens import Token, place_of, renamed, tokens_of
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.parse import unique_object
from ananke_server.constraints.refusal import Refusal
from ananke_server.constraints.schema import schema_grammar


@dataclass(slots=True)
class Expanded:
    """A grammar without inline schemas, each line where it was, and what its schemas have to say."""

    lark: str
    warnings: list[Diagnostic] = field(default_factory=list)
    rewritten: list[Diagnostic] = field(default_factory=list)


def with_schemas(grammar: str, limits: Limits) -> Expanded:
    """The grammar with a rule for each inline schema. White space in JSON is flexible there, as llguidance has it.

    Raises:
        Refusal: schemas that cannot be enforced, or that stand beside ``%ignore``, whose white space would get into their strings.
    """
    tokens = tokens_of(grammar)
    if not any(token.text == "%json" for token in tokens):
        return Expanded(grammar)
    faults = list(_misplaced(grammar, tokens))
    expanded = Expanded("")
    pieces: list[str] = []
    rules: list[str] = []
    lines_owed = 0
    prefix = _unused_prefix(tokens)
    for index, token in enumerate(tokens):
        if token.text == "%json":
            continue
        if token.kind == "json" and tokens[index - 1].text == "%json":
            name = f"{prefix}{len(rules)}"
            try:
                rules.append(_rule(grammar, token, name, limits, expanded))
            except Refusal as refusal:
                faults.extend(refusal.diagnostics)
            # As long as what it stands for, so that the columns after it stay.
            pieces.append(f"{name}_start".ljust(len("%json" + token.text.split("\n")[-1])))
            lines_owed += token.text.count("\n")
            continue
        pieces.append(token.text)
        if token.kind == "newline":
            pieces.append("\n" * lines_owed)
            lines_owed = 0
    if faults:
        raise Refusal(faults)
    expanded.lark = "".join(pieces) + "\n" + "\n".join(rules)
    return expanded


def _unused_prefix(tokens: Sequence[Token]) -> str:
    names = {token.text.lower() for token in tokens if token.kind in ("rule", "terminal")}
    prefix = "j"
    while any(name.lstrip("!?_").startswith(prefix) for name in names):
        prefix += "j"
    return prefix


def _misplaced(grammar: str, tokens: Sequence[Token]) -> Iterator[Diagnostic]:
    for token in tokens:
        if token.text == "%ignore":
            message = "%ignore beside %json would let its white space into the schema's strings"
            yield _at(grammar, token.offset, ErrorCode.UNSUPPORTED_CONSTRAINT, message, "write white space into the rules")


def _rule(grammar: str, body: Token, name: str, limits: Limits, expanded: Expanded) -> str:
    offset = len(grammar) - len(grammar[body.offset :].lstrip())
    try:
        schema: Any = json.JSONDecoder(object_pairs_hook=unique_object).raw_decode(grammar, offset)[0]
        if not isinstance(schema, dict | bool):
            raise ValueError("a schema is a JSON object, true or false")
        compiled = schema_grammar(schema, whitespace="flexible", unsupported="refuse", limits=limits)
    except Refusal as refusal:
        raise Refusal([_inline(grammar, offset, fault) for fault in refusal.diagnostics]) from None
    except (ValueError, RecursionError) as fault:
        raise Refusal([_at(grammar, offset, ErrorCode.INVALID_CONSTRAINT, f"%json: {fault}", None)]) from None
    expanded.warnings.extend(_inline(grammar, offset, finding) for finding in compiled.warnings)
    expanded.rewritten.extend(_inline(grammar, offset, finding) for finding in compiled.rewritten)
    return renamed(compiled.lark, name)


def _inline(grammar: str, offset: int, finding: Diagnostic) -> Diagnostic:
    """A finding about an inline schema: its pointer goes into the message."""
    within = (finding.pointer or "").removeprefix("/schema")
    message = f"%json: {finding.message}" if not within else f"%json at {within}: {finding.message}"
    return _at(grammar, offset, finding.code, message, finding.hint)


def _at(grammar: str, offset: int, code: str, message: str, hint: str | None) -> Diagnostic:
    line, column = place_of(grammar, offset)
    return Diagnostic(code=code, message=message, pointer="/grammar", line=line, column=column, hint=hint)
