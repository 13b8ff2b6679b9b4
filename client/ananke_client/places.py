"""Places: where in a JSON text the value of a JSON pointer stands."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([\[\]{},:])|([^\s\[\]{},:"]+))', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start`` to ``end`` of a text."""

    start: int
    end: int


@dataclass(slots=True)
class _Container:
    pointer: str
    start: int
    is_object: bool
    index: int = 0
    key: Span | None = None
    key_text: str | None = None


def find(text: str, pointer: str) -> Span | None:
    """Where a JSON text has the value of a pointer, or None; of an object or array, its key, or where there is none its opening bracket.

    Of a repeated key the last is found. A text that is not JSON is read as far as it goes.
    """
    spans = _spans(text)
    while pointer and pointer not in spans:
        # A place that is missing, such as a required member, is shown where it would be.
        pointer = pointer.rpartition("/")[0]
    return spans.get(pointer)


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Line and column of a character, both from 1."""
    return text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1


def _spans(text: str) -> dict[str, Span]:
    spans: dict[str, Span] = {}
    stack: list[_Container] = []
    position = 0
    while (found := _TOKEN.match(text, position)) is not None:
        position = found.end()
        string, mark, _ = found.groups()
        start = found.start(found.lastindex or 0)
        if mark in ("{", "["):
            pointer, key = _place(stack)
            spans[pointer] = key or Span(start, start + 1)
            stack.append(_Container(pointer, start, mark == "{"))
        elif mark in ("}", "]"):
            if stack:
                stack.pop()
        elif mark == ",":
            if stack:
                stack[-1].index += 1
                stack[-1].key_text = stack[-1].key = None
        elif mark is None and string is not None and stack and stack[-1].is_object and stack[-1].key_text is None:
            stack[-1].key_text, stack[-1].key = _unquoted(string), Span(start, position)
        elif mark is None:
            spans[_place(stack)[0]] = Span(start, position)
    return spans


def _place(stack: list[_Container]) -> tuple[str, Span | None]:
    if not stack:
        return "", None
    top = stack[-1]
    part = (top.key_text or "") if top.is_object else str(top.index)
    return f"{top.pointer}/{part.replace('~', '~0').replace('/', '~1')}", top.key


def _unquoted(string: str) -> str:
    try:
        return str(json.loads(string, strict=False))
    except ValueError:
        return string[1:-1]
