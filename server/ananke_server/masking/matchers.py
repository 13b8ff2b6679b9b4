"""Matchers: llguidance's grammar automata, made ready ahead of the requests that need them."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from ananke_server.masking.tickets import Failure

# llguidance allows 250,000 lexer states by default, up to 500 MB a matcher.
MAX_LEXER_STATES = 50_000
POOLED_MATCHERS = 256


def new_matcher(tokenizer: LLTokenizer, grammar: str, lexer_states: int = MAX_LEXER_STATES) -> LLMatcher:
    """A matcher at its grammar's start. Costs 1 to 3 ms, outside the GIL; faults show as ``is_error()``."""
    limits = LLParserLimits(max_lexer_states=lexer_states, verbose_errors=False)
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if matcher.is_error() and "precomputation failed" in matcher.get_error():
        # Its first masks take longer then.
        limits = LLParserLimits(max_lexer_states=lexer_states, verbose_errors=False, precompute_large_lexemes=False)
        matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    return matcher


def grammar_key(grammar: str) -> str:
    """A grammar's name in the pool: its SHA-256, in hexadecimal."""
    return hashlib.sha256(grammar.encode()).hexdigest()


def error_text(matcher: LLMatcher) -> str:
    """llguidance's words for a matcher's error, without the parser's state."""
    return matcher.get_error().split("\n<state>")[0].strip()


def failure_of(matcher: LLMatcher) -> tuple[Failure, str]:
    """Why a matcher is in its error state, and llguidance's words for it."""
    message = error_text(matcher)
    if "NoExtension" in message:
        return Failure.DEAD_END, "no token can continue the output within the constraint"
    if "TooComplex" in message or "too many" in message or "fuel" in message:
        return Failure.TOO_COMPLEX, message
    return Failure.INTERNAL, message


@dataclass(slots=True)
class MatcherPool:
    """Idle matchers by grammar, least recently used first out. A reset matcher keeps the lexer states it has learned."""

    tokenizer: LLTokenizer
    capacity: int = POOLED_MATCHERS
    lexer_states: int = MAX_LEXER_STATES
    _idle: OrderedDict[str, list[LLMatcher]] = field(default_factory=OrderedDict)
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, key: str, grammar: str) -> LLMatcher:
        """A matcher at its grammar's start: an idle one, or a new one. It may be in its error state."""
        with self._lock:
            idle = self._idle.get(key)
            if idle:
                self._count -= 1
                self._idle.move_to_end(key)
                matcher = idle.pop()
                if not idle:
                    del self._idle[key]
                return matcher
        return new_matcher(self.tokenizer, grammar, self.lexer_states)

    def give_back(self, key: str, matcher: LLMatcher) -> None:
        """Keep a matcher for the next request of its grammar; one in its error state never leaves it and is dropped."""
        if matcher.is_error() or not matcher.reset():
            return
        with self._lock:
            self._idle.setdefault(key, []).append(matcher)
            self._idle.move_to_end(key)
            self._count += 1
            if self._count > self.capacity:
                oldest, idle = next(iter(self._idle.items()))
                idle.pop()
                self._count -= 1
                if not idle:
                    del self._idle[oldest]

    def __len__(self) -> int:
        return self._count
