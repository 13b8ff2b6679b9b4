"""A judge of emitted sources: llguidance's engine itself, fed byte by byte."""

from __future__ import annotations

import json
from collections.abc import Iterable

from llguidance import LLMatcher, LLTokenizer

TOKENIZER = LLTokenizer("byte")


class Accepts:
    """Which texts a source matches wholly, as the terminal of a Lark grammar."""

    def __init__(self, source: str) -> None:
        grammar = LLMatcher.grammar_from_lark(f"start: T\nT: /{source}/")
        self._matcher = LLMatcher(TOKENIZER, grammar)
        assert not self._matcher.get_error(), self._matcher.get_error()

    def __call__(self, text: str) -> bool:
        data = list(text.encode())
        self._matcher.reset()
        return self._matcher.try_consume_tokens(data) == len(data) and self._matcher.is_accepting()

    def of(self, texts: Iterable[str]) -> list[str]:
        return [text for text in texts if self(text)]


def body(text: str) -> str:
    """A text between the quotes of a JSON string literal, by the standard library."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
