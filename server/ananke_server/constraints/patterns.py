"""Patterns: what is wrong with a regular expression, as a diagnostic."""

from __future__ import annotations

from ananke_client.errors import ErrorCode
from ananke_client.report import Diagnostic
from ananke_server.constraints.lark_tokens import place_of
from ananke_server.constraints.regex import RegexError


def pattern_fault(fault: RegexError, pattern: str, pointer: str, *, shift: int = 0) -> Diagnostic:
    """The refusal of a pattern, with line and column within it; ``shift`` characters stood before it when it was parsed."""
    line, column = place_of(pattern, min(max(fault.offset - shift, 0), len(pattern)))
    return Diagnostic(code=_code(fault), message=fault.message, pointer=pointer, line=line, column=column, hint=fault.hint)


def _code(fault: RegexError) -> ErrorCode:
    if fault.too_large:
        return ErrorCode.CONSTRAINT_TOO_LARGE
    return ErrorCode.UNSUPPORTED_CONSTRAINT if fault.unsupported else ErrorCode.INVALID_CONSTRAINT
