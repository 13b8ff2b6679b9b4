"""Refusals: why a constraint is not enforced, as diagnostics."""

from __future__ import annotations

from ananke_client.errors import AnankeError, ErrorCode, error_of
from ananke_client.report import Diagnostic

MAX_FAULTS = 32
"""Faults of one kind that a refusal lists."""


class Refusal(Exception):
    """A constraint is refused; carries every diagnostic found so far."""

    def __init__(self, diagnostics: list[Diagnostic]) -> None:
        super().__init__("; ".join(map(str, diagnostics)))
        self.diagnostics = diagnostics


def refuse(
    code: ErrorCode,
    message: str,
    *,
    pointer: str | None = None,
    line: int | None = None,
    column: int | None = None,
    hint: str | None = None,
) -> Refusal:
    """A refusal of one diagnostic, to raise."""
    return Refusal([Diagnostic(code=code, message=message, pointer=pointer, line=line, column=column, hint=hint)])


def error_from(diagnostics: list[Diagnostic]) -> AnankeError:
    """The error of a refused constraint: the first diagnostic's code, and what all of them say."""
    first = diagnostics[0]
    texts = [str(diagnostic).removeprefix(f"[{diagnostic.code}] ") for diagnostic in diagnostics]
    return error_of(first.code, "; ".join(texts))


def pointer_of(path: tuple[object, ...] | list[object]) -> str:
    """The JSON pointer (RFC 6901) of a path of keys and indices."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
