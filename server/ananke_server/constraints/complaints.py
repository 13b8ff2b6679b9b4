"""Complaints: llguidance's error texts, told as diagnostics."""

from __future__ import annotations

import re

from ananke_client.constraint import Constraint, GrammarConstraint, JsonSchemaConstraint, RegexConstraint
from ananke_client.errors import ErrorCode
from ananke_client.report import Diagnostic

_UNSUPPORTED = (
    *("Unimplemented keys", "not supported", "only supported", "not disjoint", "Unknown format"),
    *("look-around", "lookarounds", "backreferences"),
)
_TOO_LARGE = ("too big", "too large", "too many", "TooComplex", "fuel", "limit", "panic", "decimal literal invalid")
_UNSATISFIABLE = ("NoExtension", "Unsatisfiable")
_NO_TOKEN = re.compile(r"Token range (?:start|end) too large: (\d+)")

_PLACE = re.compile(r"^(?:at )?(\d+)\((\d+)\): ")
_REGEX_ERROR = re.compile(r"regex parse error:.*?\n( *)\^.*?error: ([^\n]+)", re.DOTALL)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|(?<=in regex )/.*/', re.DOTALL)
_POINTERS = {"regex": "/pattern", "choice": "/choices", "grammar": "/grammar", "json_schema": "/schema"}


def diagnostic_of(constraint: Constraint, complaint: str) -> Diagnostic:
    """What llguidance says of a constraint's grammar, with the constraint's own places."""
    line, column = _place(constraint, complaint)
    return Diagnostic(
        code=_code(_own_words(complaint)),
        message=_message(complaint),
        pointer=_POINTERS.get(constraint.type, ""),
        line=line,
        column=column,
        hint=_hint(constraint, complaint),
    )


def _own_words(text: str) -> str:
    """llguidance's words, without what it quotes of the constraint."""
    if found := _REGEX_ERROR.search(text):
        return found[2]
    return _QUOTED.sub("", text)


def _code(text: str) -> ErrorCode:
    if any(phrase in text for phrase in _UNSATISFIABLE) or _NO_TOKEN.search(text):
        return ErrorCode.INVALID_CONSTRAINT
    if any(phrase in text for phrase in _UNSUPPORTED):
        return ErrorCode.UNSUPPORTED_CONSTRAINT
    if any(phrase in text for phrase in _TOO_LARGE):
        return ErrorCode.CONSTRAINT_TOO_LARGE
    return ErrorCode.INVALID_CONSTRAINT


def _message(text: str) -> str:
    if "NoExtension" in _own_words(text):
        return "no output can satisfy the constraint"
    if found := _REGEX_ERROR.search(text):
        return found[2]
    if found := _NO_TOKEN.search(text):
        return f"the model has no token {found[1]}"
    if "coerce_one_of" in text:
        return "oneOf is enforced only where its branches provably exclude each other"
    return _PLACE.sub("", text).split("\n")[0]


def _place(constraint: Constraint, text: str) -> tuple[int | None, int | None]:
    if isinstance(constraint, RegexConstraint):
        # Rust's regex crate indents the pattern by four and puts a caret under the place.
        found = _REGEX_ERROR.search(text)
        return (1, len(found[1]) - 3) if found and "\n" not in constraint.pattern else (None, None)
    if isinstance(constraint, GrammarConstraint) and constraint.syntax == "lark" and (found := _PLACE.match(text)):
        return int(found[1]), int(found[2])
    return None, None


def _hint(constraint: Constraint, text: str) -> str | None:
    if "Unimplemented keys" in text or ("oneOf" in text and isinstance(constraint, JsonSchemaConstraint)):
        return "rewrite the schema without it; anyOf, enum, const, type, properties and the bounds are enforced"
    if "look-around" in text or "lookarounds" in text:
        return "write the pattern without lookahead, lookbehind, word boundaries and inner anchors"
    if "no start rule" in text:
        return "name the first rule 'start'"
    return None
