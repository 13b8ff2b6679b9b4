"""Replaying: whether the masks of a program can produce a given text, token by token, and if not, whether another spelling of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Final

import llguidance.numpy
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from ananke_server.masking.matchers import error_text, new_matcher
from ananke_server.masking.program import Branch, Program, from_text
from ananke_server.masking.program_matcher import ProgramMatcher, new_program

SPELLING_STEPS: Final = 3_000
"""Pieces of text that the search for another spelling tries before it gives up."""
CONTEXT: Final = 40

DEFAULT: Final = (", ", ": ")
COMPACT: Final = (",", ":")
"""Separators between the members of JSON, as ``json.dumps`` takes them."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a text leaves the masks: before the token, or at the end, where the program is not satisfied yet."""

    before: str
    token: str
    after: str
    error: str = ""
    """What the matcher says where it is in its error state."""

    def __str__(self) -> str:
        place = f"…{self.before[-CONTEXT:]}»{self.token}«{self.after[:CONTEXT]}…" if self.token else f"…{self.before[-CONTEXT:]}» the end"
        return f"{place} ({self.error})" if self.error else place


class Replayer:
    """Replays texts through a program's masks, as the server fills them, and keeps how long each took on one core."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self.tokenizer = tokenizer
        self.mask_seconds: list[float] = []
        self._bitmask = llguidance.numpy.allocate_token_bitmask(1, tokenizer.vocab_size)

    def matcher(self, program: str, limits: LLParserLimits | None = None) -> LLMatcher | ProgramMatcher:
        """What fills the program's masks: llguidance itself for a single grammar. ``limits``: where they are not to be the server's."""
        if limits is not None:
            return LLMatcher(self.tokenizer, program, log_level=0, limits=limits)
        tree = from_text(program)
        return new_program(self.tokenizer, program) if isinstance(tree, Branch) else new_matcher(self.tokenizer, tree.grammar)

    def stop(self, matcher: LLMatcher | ProgramMatcher, text: str) -> Stop | None:
        """Where the text leaves the masks of a matcher that is at its start; None where they can produce it."""
        tokens = self.tokenizer.tokenize_str(text)
        for index, token in enumerate(tokens):
            if not self._allows(matcher, token) or not matcher.consume_tokens([token]):
                before, after = self.tokenizer.decode_str(tokens[:index]), self.tokenizer.decode_str(tokens[index + 1 :])
                return Stop(before, self.tokenizer.decode_str([token]), after, _error_of(matcher))
        return None if matcher.is_accepting() else Stop(text, "", "", _error_of(matcher))

    def _allows(self, matcher: LLMatcher | ProgramMatcher, token: int) -> bool:
        begin = time.perf_counter()
        if isinstance(matcher, LLMatcher):
            llguidance.numpy.fill_next_token_bitmask(matcher, self._bitmask, 0)
            mask = self._bitmask[0]
        else:
            mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.int32)
        self.mask_seconds.append(time.perf_counter() - begin)
        return bool((int(mask[token // 32]) >> (token % 32)) & 1)


def _error_of(matcher: LLMatcher | ProgramMatcher) -> str:
    return error_text(matcher) if isinstance(matcher, LLMatcher) else matcher.error_text()


class Exhausted(Exception):
    """The search for a spelling took more steps than it is allowed, or its matcher came to its limits."""


class Walk:
    """A program without its masks, and how far each of its grammars has followed the tokens consumed so far.

    It can go back, and it shares nothing with the server's own way of combining grammars.
    A part of an ``any`` that cannot follow stays behind, and is alive again once the walk has been rolled back to where it stopped.
    """

    def __init__(self, tokenizer: LLTokenizer, program: Program | str, limits: LLParserLimits | None = None) -> None:
        """``limits``: llguidance's, where they are not to be the server's."""
        self.consumed = 0
        tree = from_text(program) if isinstance(program, str) else program
        self._mode = tree.mode if isinstance(tree, Branch) else None
        self._parts = [Walk(tokenizer, part, limits) for part in tree.parts] if isinstance(tree, Branch) else []
        self._matcher: LLMatcher | None = None
        if not isinstance(tree, Branch):
            grammar = tree.grammar
            self._matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits) if limits else new_matcher(tokenizer, grammar)

    def advance(self, tokens: Sequence[int]) -> int:
        """Consume tokens as far as the program goes; how many."""
        if self._matcher is not None:
            count = int(self._matcher.try_consume_tokens(list(tokens)))
        else:
            counts = [part.advance(tokens) for part in self._alive()]
            count = min(counts) if self._mode == "all" else max(counts)
            if self._mode == "all":
                for part, moved in zip(self._parts, counts, strict=True):
                    part.rollback(moved - count)
        self.consumed += count
        return count

    def rollback(self, count: int) -> None:
        """Take back the last tokens.

        Raises:
            Exhausted: a matcher is in its error state, which it never leaves.
        """
        self.consumed -= count
        if self._matcher is not None and count:
            back = self._matcher.rollback(count) if self.consumed else self._matcher.reset()
            if not back:
                raise Exhausted(self._matcher.get_error())
        for part in self._parts:
            part.rollback(max(0, part.consumed - self.consumed))

    def accepting(self) -> bool:
        """Whether the tokens so far satisfy the program."""
        if self._matcher is not None:
            return bool(self._matcher.is_accepting())
        return (all if self._mode == "all" else any)(part.accepting() for part in self._alive())

    def _alive(self) -> list[Walk]:
        return [part for part in self._parts if part.consumed == self.consumed]


class Spelling:
    """Searches the spellings of a JSON value for one that a program admits, byte by byte.

    Spellings differ in the order of properties, the form of numbers and the escapes of strings; the usual one is tried first.
    """

    _BYTES: Final = LLTokenizer("byte")

    def __init__(
        self, program: Program | str, separators: tuple[str, str], limits: LLParserLimits | None = None, *, names: Sequence[str] = ()
    ) -> None:
        """``names``: properties in an order in which the program may want them."""
        self._ranks = {name: rank for rank, name in enumerate(names)}
        self._new_walk = partial(Walk, self._BYTES, program, limits)
        self._walk = self._new_walk()
        self._comma, self._colon = separators
        self._causes: list[str] = []
        self._pieces: list[str] = []
        self._steps = 0

    def find(self, value: Any) -> tuple[str, list[str]] | None:
        """An admitted text of the value and in what it differs from the usual one; None where there is none.

        The order of properties is the value's own at first, and then the one that ``names`` suggests.

        Raises:
            Exhausted: it was not found within ``SPELLING_STEPS``, or the matcher came to its limits.
        """
        try:
            return self._find(value)
        except Exhausted:
            arranged = _arranged(value, self._ranks)
            if json.dumps(arranged) == json.dumps(value):
                raise
        found = self._find(arranged)
        return found and (found[0], list(dict.fromkeys(["order of properties", *found[1]])))

    def _find(self, value: Any) -> tuple[str, list[str]] | None:
        self._steps = 0
        found: list[tuple[str, list[str]]] = []

        def end() -> bool:
            if self._walk.accepting():
                found.append(("".join(self._pieces), list(dict.fromkeys(self._causes))))
            return bool(found)

        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(200_000)
        try:
            self._value(value, end)
            self._walk.rollback(self._walk.consumed)
        except Exhausted:
            self._walk = self._new_walk()
            raise
        finally:
            sys.setrecursionlimit(limit)
            self._causes.clear()
            self._pieces.clear()
        return found[0] if found else None

    def _value(self, value: Any, then: Callable[[], bool]) -> bool:
        if isinstance(value, dict):
            return self._text("{", lambda: self._members(value, list(value), "", then))
        if isinstance(value, list):
            return self._text("[", lambda: self._items(value, 0, then))
        return any(self._because(cause, text, then) for cause, text in spellings(value))

    def _members(self, value: dict[str, Any], left: list[str], comma: str, then: Callable[[], bool]) -> bool:
        if not left:
            return self._text("}", then)
        return any(self._member(value, left, index, comma, then) for index in range(len(left)))

    def _member(self, value: dict[str, Any], left: list[str], index: int, comma: str, then: Callable[[], bool]) -> bool:
        key, rest = left[index], left[:index] + left[index + 1 :]

        def after_key() -> bool:
            return self._value(value[key], lambda: self._members(value, rest, self._comma, then))

        order = "order of properties" if index else ""
        return any(
            self._because(order or cause, f"{comma}{text}{self._colon}", after_key)
            for cause, text in spellings(key)
            if not (order and cause)
        )

    def _items(self, value: list[Any], index: int, then: Callable[[], bool]) -> bool:
        if index == len(value):
            return self._text("]", then)

        def item() -> bool:
            return self._value(value[index], lambda: self._items(value, index + 1, then))

        return self._text(self._comma, item) if index else item()

    def _because(self, cause: str, text: str, then: Callable[[], bool]) -> bool:
        if not cause:
            return self._text(text, then)
        self._causes.append(cause)
        if self._text(text, then):
            return True
        self._causes.pop()
        return False

    def _text(self, text: str, then: Callable[[], bool]) -> bool:
        self._steps += 1
        if self._steps > SPELLING_STEPS:
            raise Exhausted
        data = text.encode("utf-8", errors="surrogatepass")
        moved = self._walk.advance(data)
        if moved == len(data):
            self._pieces.append(text)
            if then():
                return True
            self._pieces.pop()
        self._walk.rollback(moved)
        return False


def _arranged(value: Any, ranks: dict[str, int]) -> Any:
    """The value with its properties in the order of their ranks, those without one last."""
    if isinstance(value, list):
        return [_arranged(item, ranks) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _arranged(value[key], ranks) for key in sorted(value, key=lambda key: ranks.get(key, len(ranks)))}


def spellings(value: Any) -> Iterator[tuple[str, str]]:
    """The texts of a scalar, each with in what it differs from the usual one, which is the first."""
    usual = json.dumps(value, ensure_ascii=False)
    yield "", usual
    others: dict[str, str] = {}
    if isinstance(value, str):
        others = {json.dumps(value): "escapes", usual.replace("/", "\\/"): "escapes", _all_escaped(value): "escapes"}
    elif isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(ArithmeticError, ValueError):
            others = dict.fromkeys(_numbers(Decimal(usual)), "number form")
    for text, cause in others.items():
        if text != usual:
            yield cause, text


def _all_escaped(value: str) -> str:
    units = value.encode("utf-16-be", errors="surrogatepass")
    return '"' + "".join(f"\\u{units[index]:02x}{units[index + 1]:02x}" for index in range(0, len(units), 2)) + '"'


def _numbers(number: Decimal) -> Iterator[str]:
    fixed = f"{number:f}"
    if number == number.to_integral_value():
        whole = fixed.partition(".")[0]
        yield from (whole, f"{whole}.0", f"{whole}e0")
    yield from (fixed, f"{number:e}", f"{number:E}")
