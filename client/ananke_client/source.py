"""Source: the file that holds a constraint, and the places in it that diagnostics name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ananke_client.places import find, line_and_column
from ananke_client.report import Diagnostic


class Kind(StrEnum):
    """What a file holds."""

    CONSTRAINT = "constraint"
    SCHEMA = "schema"
    REGEX = "regex"
    LARK = "lark"
    GBNF = "gbnf"


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of one line. Line and column count from 1, in the file or, where ``within`` names one, in a text that the file quotes."""

    line: int
    column: int
    length: int
    text: str
    within: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A file's text and its kind; options hold for a schema, as in a constraint of ``json_schema``."""

    text: str
    kind: Kind = Kind.CONSTRAINT
    options: tuple[tuple[str, str], ...] = ()

    @property
    def constraint(self) -> str:
        """The constraint's JSON text. A regex's file may end with a newline that is not the pattern's."""
        if self.kind is Kind.CONSTRAINT:
            return self.text
        if self.kind is Kind.SCHEMA:
            head = json.dumps({"type": "json_schema", **dict(self.options)})[:-1]
            return f'{head}, "schema":\n{self.text}\n}}'
        if self.kind is Kind.REGEX:
            return json.dumps({"type": "regex", "pattern": self.text.removesuffix("\n")})
        return json.dumps({"type": "grammar", "syntax": self.kind.value, "grammar": self.text})

    def pointer_of(self, diagnostic: Diagnostic) -> str | None:
        """A diagnostic's pointer into the file, None where it is not JSON."""
        if diagnostic.pointer is None or self.kind is Kind.CONSTRAINT:
            return diagnostic.pointer
        return diagnostic.pointer.removeprefix("/schema") if self.kind is Kind.SCHEMA else None

    def place_of(self, diagnostic: Diagnostic) -> Place | None:
        """Where a diagnostic points, or None where it means the whole."""
        pointer = self.pointer_of(diagnostic)
        if diagnostic.line is None:
            return None if pointer is None else self._of_pointer(pointer)
        column = diagnostic.column or 1
        if self.kind not in (Kind.CONSTRAINT, Kind.SCHEMA):
            return _place(self.text, diagnostic.line, column)
        if pointer is None:
            return _place(self.text, diagnostic.line - (self.kind is Kind.SCHEMA), column)
        quoted = _value_at(self.text, pointer)
        return _place(quoted, diagnostic.line, column, within=pointer) if isinstance(quoted, str) else self._of_pointer(pointer)

    def _of_pointer(self, pointer: str) -> Place | None:
        span = find(self.text, pointer)
        if span is None:
            return None
        line, column = line_and_column(self.text, span.start)
        return _place(self.text, line, column, span.end - span.start)


def _place(text: str, line: int, column: int, length: int = 1, within: str | None = None) -> Place:
    lines = text.split("\n")
    # The end of a text may be named as the line after its last.
    line = min(max(line, 1), len(lines))
    shown = lines[line - 1].removesuffix("\r")
    column = min(max(column, 1), len(shown) + 1)
    return Place(line, column, max(1, min(length, len(shown) - column + 1)), shown, within)


def _value_at(text: str, pointer: str) -> Any:
    try:
        value = json.loads(text)
        for part in pointer.split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            value = value[int(part)] if isinstance(value, list) else value[part]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return value
