"""Tokens of Lark text, as llguidance's lexer takes them: enough to rename a grammar's names exactly and to find its rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

TokenKind = Literal[
    "blank", "newline", "string", "regex", "special", "grammar", "statement", "json", "rule", "terminal", "number", "mark", "unknown"
]

_TOKEN = re.compile(
    r"""
    (?P<blank>(?:\#|//)[^\n]*|[ \t\r]+)
    |(?P<newline>\n)
    |(?P<string>"(?:\\.|[^"\\\n])*"i?)
    |(?P<regex>/(?:\\.|[^/\\])+/[imslux]*)
    |(?P<special><[^<>\s]+>)
    |(?P<grammar>@[a-zA-Z0-9_\-]+)
    |(?P<statement>%[a-z]+)
    |(?P<rule>!?[_?]?[a-z][_a-z0-9\-]*)
    |(?P<terminal>_?[A-Z][_A-Z0-9\-]*)
    |(?P<number>[+-]?[0-9]+(?:\.[0-9]+)?(?![.0-9a-zA-Z])|[+-]?[0-9]+)
    |(?P<mark>->|::|\.\.|[][:|&~(){}=,.+*?_])
    |(?P<unknown>.)
    """,
    re.VERBOSE,
)
_WITH_JSON = ("%json", "%regex", "%llguidance", "%lark")


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a grammar's text; all of them in a row are the text."""

    kind: TokenKind
    text: str
    offset: int


def tokens_of(lark: str) -> list[Token]:
    """Every piece of a grammar's text. Never fails: what is no Lark is of kind ``unknown``."""
    return list(_tokens(lark))


def _tokens(lark: str) -> Iterator[Token]:
    offset = 0
    while found := _TOKEN.match(lark, offset):
        kind: TokenKind = found.lastgroup  # type: ignore[assignment]  # the pattern's groups are the kinds
        yield Token(kind, found[0], offset)
        offset = found.end()
        if kind == "statement" and found[0] in _WITH_JSON:
            body = _json_body(lark, offset)
            yield Token("json", body, offset)
            offset += len(body)


def _json_body(lark: str, offset: int) -> str:
    start = len(lark) - len(lark[offset:].lstrip())
    try:
        _, end = json.JSONDecoder().raw_decode(lark, start)
    except (ValueError, RecursionError):
        return ""
    return lark[offset:end]


def place_of(text: str, offset: int) -> tuple[int, int]:
    """Line and column of an offset, both from 1."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


@dataclass(slots=True)
class Item:
    """A rule's, a terminal's or a statement's tokens, blanks aside: what stands before the colon, and the body."""

    head: list[Token]
    body: list[Token]

    @property
    def name(self) -> Token:
        return self.head[0]


def items_of(tokens: list[Token]) -> list[Item]:
    """A grammar's items. An item ends at a newline that no ``|`` follows, outside parentheses."""
    items: list[Item] = []
    open_item: Item | None = None
    meaningful = [token for token in tokens if token.kind != "blank"]
    depth = 0
    for index, token in enumerate(meaningful):
        if token.kind == "newline":
            after = next((later for later in meaningful[index:] if later.kind != "newline"), None)
            if depth <= 0 and (after is None or after.text != "|"):
                open_item = None
            continue
        if open_item is None:
            open_item, depth = Item([], []), 0
            items.append(open_item)
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.text, 0)
        in_head = not open_item.body and (not open_item.head or open_item.head[-1].text != ":")
        (open_item.head if in_head else open_item.body).append(token)
    return items


def obstacle(lark: str) -> Token | None:
    """The first token that keeps a grammar from being made part of another one, or None.

    White space that one grammar ignores would be ignored in the whole; parametric rules and nested grammars have names of their own.
    """
    for item in items_of(tokens_of(lark)):
        name = item.name
        if name.kind not in ("rule", "terminal") and not (name.text == "%import" and _is_plain_import(item)):
            return name
        for token in item.head + item.body:
            if token.kind in ("grammar", "unknown") or token.text in ("::", "%if", "%lark"):
                return token
    return None


def renamed(lark: str, prefix: str) -> str:
    """A grammar without obstacle, with a prefix before every name that it defines: ``p_`` before rules, ``P_`` before terminals."""
    tokens = tokens_of(lark)
    items = items_of(tokens)
    fixed = {token.offset for item in items for token in _fixed_names(item)}
    imported = {item.head[-1].offset for item in items if item.name.text == "%import" and "->" not in [t.text for t in item.head]}
    pieces: list[str] = []
    for token in tokens:
        pieces.append(token.text if token.offset in fixed else _prefixed(token, prefix))
        if token.offset in imported:
            pieces.append(f" -> {_prefixed(token, prefix)}")
    return "".join(pieces)


def _is_plain_import(item: Item) -> bool:
    """``%import common.X`` or ``%import common.X -> Y``."""
    return [token.text for token in item.head[2:5:2]] in (["."], [".", "->"]) and len(item.head) in (4, 6)


def _fixed_names(item: Item) -> list[Token]:
    """Names that are Lark's own: what is imported, and the names of a rule's attributes."""
    if item.name.text == "%import":
        return item.head[1:4]
    starts = [index for index, token in enumerate(item.head) if token.text in ("[", ",")]
    return [item.head[index + 1] for index in starts if index + 1 < len(item.head)]


def _prefixed(token: Token, prefix: str) -> str:
    if token.kind == "rule":
        marks = token.text[: len(token.text) - len(bare_name(token))]
        return f"{marks}{prefix.lower()}_{bare_name(token)}"
    return f"{prefix.upper()}_{token.text}" if token.kind == "terminal" else token.text


def bare_name(token: Token) -> str:
    """A name without the marks ``!`` and ``?`` of its definition."""
    return token.text.lstrip("!?")
