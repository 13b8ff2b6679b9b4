"""Matchers: llguidance's grammar automata, made ready ahead of the requests that need them."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from ananke_server.masking.mask_store import MaskStore
from ananke_server.masking.states import Terminals
from ananke_server.masking.tickets import Failure

# llguidance allows 250,000 lexer states by default, up to 500 MB a matcher.
MAX_LEXER_STATES = 50_000
POOLED_GRAMMARS = 256
POOL_BYTES = 1 << 30
_TAKES_BETWEEN_CHECKS = 16


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
    """llguidance's words for a matcher's error, without the parser's state or the note that it is left out."""
    return re.split(r"\n<(?:state|non-verbose)", matcher.get_error())[0].strip()


def failure_of(matcher: LLMatcher) -> tuple[Failure, str]:
    """Why a matcher is in its error state, and llguidance's words for it."""
    message = error_text(matcher)
    if "NoExtension" in message:
        return Failure.DEAD_END, "no token can continue the output within the constraint"
    if "TooComplex" in message or "too many" in message or "fuel" in message:
        return Failure.TOO_COMPLEX, message
    return Failure.INTERNAL, message


@dataclass(slots=True, eq=False)
class Kept:
    """A grammar's matcher at its start. All others are its copies, and share its lexer as long as they live."""

    matcher: LLMatcher
    copies: int = 0
    terminals: Terminals | None = None
    """By which states of the grammar are told apart, where they can be."""

    def copy(self) -> tuple[LLMatcher, Kept]:
        self.copies += 1
        return self.matcher.deep_copy(), self


class MatcherPool:
    """Matchers by grammar, least recently used first out.

    All matchers of a grammar are copies of one that is kept, and share the lexer states that any of them has learned.
    A lexer has a lock, so whatever fills several masks at once has a pool for each thread.
    """

    def __init__(
        self,
        tokenizer: LLTokenizer,
        *,
        capacity: int = POOLED_GRAMMARS,
        max_bytes: int = POOL_BYTES,
        lexer_states: int = MAX_LEXER_STATES,
        masks: MaskStore | None = None,
    ) -> None:
        """Args:
        max_bytes: of the process's memory beyond what it has now, as far as the pool's grammars may be to blame.
        masks: where slow masks of schemas are kept for others in the same state, which is worth it where there are many requests.
        """
        self.tokenizer = tokenizer
        self._capacity = capacity
        self._lexer_states = lexer_states
        self._max_rss = _resident_bytes() + max_bytes
        self.masks = masks
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._taken = 0
        self._lock = threading.Lock()

    @property
    def found(self) -> int:
        """Masks that were found in the store, in this process."""
        return 0 if self.masks is None else self.masks.found

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, key: str, grammar: str, *, of_schema: bool = False) -> tuple[LLMatcher, Kept]:
        """A matcher at its grammar's start, and what it is a copy of. It may be in its error state.

        Costs 10 us where the grammar is in the pool, and otherwise what compiling and a first mask cost, outside the GIL.
        """
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept.copy()
        made = new_matcher(self.tokenizer, grammar, self._lexer_states)
        if made.is_error():
            return made, Kept(made)
        # The first mask is needed as soon as the prompt is read: its lexer states are learned ahead, for all copies.
        made.deep_copy().compute_bitmask()
        terminals = Terminals.of(grammar) if self.masks is not None and of_schema else None
        with self._lock:
            kept = self._kept[key] = Kept(made, terminals=terminals)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
            self._taken += 1
            if self._taken % _TAKES_BETWEEN_CHECKS == 0:
                self._bound_memory()
            return kept.copy()

    def retire(self, key: str, kept: Kept) -> bool:
        """Let a grammar go, its learned states too, unless it has been made anew since; the matchers out there live on.

        Returns whether others have had copies of it, too.
        """
        with self._lock:
            if self._kept.get(key) is kept:
                del self._kept[key]
            return kept.copies > 1

    def _bound_memory(self) -> None:
        if _resident_bytes() <= self._max_rss:
            return
        for _ in range((len(self._kept) + 1) // 2):
            self._kept.popitem(last=False)
        # The allocator would keep what was freed, and the next check would find no less.
        ctypes.CDLL(None).malloc_trim(0)


def _resident_bytes() -> int:
    """Of the process's own memory, without what it shares with others."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * mmap.PAGESIZE
