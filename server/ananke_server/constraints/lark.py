"""Lark grammars, looked over before llguidance sees them: what a mask cannot hold to is refused, and a start without end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from ananke_client.errors import ErrorCode
from ananke_client.report import Diagnostic
from ananke_server.constraints.fragments import Fragment, is_empty
from ananke_server.constraints.lark_tokens import Item, Token, bare_name, items_of, place_of, tokens_of
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.productivity import productive
from ananke_server.constraints.refusal import Refusal, refuse

MAX_TERMINALS = 32
"""Terminals that are looked into where some are intersected or negated, a compilation each."""

_NOTHING = Item([], [Token("rule", "_nothing", -1)])
"""Stands for what derives no text: a rule that only refers to itself."""
# A rule cut off by max_tokens is accepted as it stands, temperature is not a mask's to set, and options relax checks.
_UNENFORCED_OPTIONS = ("max_tokens", "temperature")
_UNBOUNDED = re.compile(r"/(?:.*[^\\])?(?:\.|\[\^[^\]]*\]|\(\?s:\.\)|\[\\s\\S\]|\(\.\|\\n\))[*+]\)*/[a-z]*$|/\(\?s:\.\*\)/", re.DOTALL)


def check_lark(grammar: str, limits: Limits) -> list[Diagnostic]:
    """Hold a grammar against the limits and what can be enforced, and return warnings; whether it is a grammar is for llguidance to say.

    Raises:
        Refusal: with the place of every fault.
    """
    if grammar.lstrip().startswith("{"):
        # llguidance's own JSON form, whose schemas would pass by our checks.
        raise refuse(ErrorCode.INVALID_CONSTRAINT, "the grammar is JSON, not Lark", pointer="/grammar")
    tokens = tokens_of(grammar)
    items = items_of(tokens)
    rules = sum(1 for item in items if item.name.kind in ("rule", "terminal"))
    if rules > limits.rules:
        message = f"the grammar has {rules:,} rules; at most {limits.rules:,} are taken"
        raise refuse(ErrorCode.CONSTRAINT_TOO_LARGE, message, pointer="/grammar")
    faults = list(_unenforced(grammar, tokens)) or list(_without_end(grammar, items))
    if faults:
        raise Refusal(faults)
    return list(_swallowing(grammar, items))


def _at(grammar: str, token: Token, code: str, message: str, hint: str | None = None) -> Diagnostic:
    line, column = place_of(grammar, token.offset)
    return Diagnostic(code=code, message=message, pointer="/grammar", line=line, column=column, hint=hint)


def _unenforced(grammar: str, tokens: Sequence[Token]) -> Iterator[Diagnostic]:
    meaningful = [token for token in tokens if token.kind not in ("blank", "newline")]
    for index, token in enumerate(meaningful):
        option = token.text in _UNENFORCED_OPTIONS and [after.text for after in meaningful[index + 1 : index + 2]] == ["="]
        if option or token.text == "%llguidance":
            yield _at(
                grammar, token, ErrorCode.UNSUPPORTED_CONSTRAINT, f"{token.text!r} is not taken: a mask could not hold to it", "remove it"
            )


def _without_end(grammar: str, items: Sequence[Item]) -> Iterator[Diagnostic]:
    """The start, where it derives no finite text: for a recursion without end, or for terminals that match nothing."""
    rules = {bare_name(item.name): item for item in items if item.name.kind == "rule"}
    rules |= dict.fromkeys(_empty_terminals(grammar, items), _NOTHING) | {_NOTHING.body[0].text: _NOTHING}
    start = rules.get("start")
    if start is None or any(token.kind == "unknown" for item in items for token in item.head + item.body):
        return
    uses = {name: {bare_name(token) for token in item.body} & rules.keys() for name, item in rules.items()}
    try:
        known = productive(uses, lambda name, known: _Body(rules[name].body, rules, known).derives())
    except RecursionError:
        raise refuse(ErrorCode.CONSTRAINT_TOO_LARGE, "the grammar's groups nest too deep", pointer="/grammar") from None
    if "start" not in known:
        yield _at(grammar, start.name, ErrorCode.INVALID_CONSTRAINT, "'start' derives no finite text", "give the recursion an end")


def _empty_terminals(grammar: str, items: Sequence[Item]) -> Iterator[str]:
    """Terminals in which intersections and complements leave nothing."""
    terminals = [item for item in items if item.name.kind == "terminal" and item.body]
    if not any(token.text in "&~" for item in terminals for token in item.body):
        return
    definitions = [grammar[item.name.offset : item.body[-1].offset + len(item.body[-1].text)] for item in terminals]
    for item in terminals[:MAX_TERMINALS]:
        if is_empty(Fragment("\n".join([f"start: {item.name.text}", *definitions]))):
            yield item.name.text


class _Body:
    """Whether a rule's body derives some finite text from rules that do; in doubt it does."""

    def __init__(self, tokens: Sequence[Token], rules: dict[str, Item], known: set[str]) -> None:
        self._tokens = tokens
        self._rules = rules
        self._known = known
        self._at = 0

    def derives(self) -> bool:
        """Alternatives up to a closing bracket or the end."""
        derives = self._sequence()
        while self._peek() == "|":
            self._at += 1
            derives = self._sequence() or derives
        return derives

    def _sequence(self) -> bool:
        derives = True
        while self._at < len(self._tokens) and self._peek() not in ("|", ")", "]"):
            if self._peek() == "->":
                self._at += 2
            else:
                derives = self._part() and derives
        return derives

    def _part(self) -> bool:
        token = self._tokens[self._at]
        self._at += 1
        derives = True
        if token.text in ("(", "["):
            derives = self.derives() or token.text == "["
            self._at += 1
        elif bare_name(token) in self._rules:
            derives = bare_name(token) in self._known
        return derives or self._may_be_absent()

    def _may_be_absent(self) -> bool:
        """Whether a repetition that may be none at all follows."""
        following = "".join(token.text for token in self._tokens[self._at : self._at + 3])
        return following[:1] in ("?", "*") or following[:2] in ("{0", "{,", "~0")

    def _peek(self) -> str:
        return self._tokens[self._at].text if self._at < len(self._tokens) else ""


def _swallowing(grammar: str, items: Sequence[Item]) -> Iterator[Diagnostic]:
    """Regexes without a bound before a text that they would take for themselves."""
    unbounded = {item.name.text for item in items if item.name.kind == "terminal" and item.body and _UNBOUNDED.search(item.body[-1].text)}
    for item in items:
        if item.name.kind != "rule":
            continue
        for token, after in pairwise(item.body):
            if after.kind == "string" and (token.text in unbounded or (token.kind == "regex" and _UNBOUNDED.search(token.text))):
                message = f"an unbounded string before the forced suffix {after.text}: a lexeme as long as it can be may take that too"
                yield _at(grammar, token, "suspicious", message, "exclude the suffix's first character, or put 'lazy' on a rule of its own")
