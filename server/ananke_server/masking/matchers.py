"""Matchers: llguidance's grammar automata, made ready ahead of the requests that need them."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from ananke_server.masking.tickets import Failure, Ticket, TicketTable

# llguidance allows 250,000 lexer states by default, up to 500 MB a matcher.
MAX_LEXER_STATES = 50_000
POOLED_MATCHERS = 256


def new_matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """A matcher at its grammar's start. Costs 1 to 3 ms, outside the GIL; faults show as ``is_error()``."""
    limits = LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)
    return LLMatcher(tokenizer, grammar, log_level=0, limits=limits)


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
class Guide:
    """What masks one request: its matcher, and how many of its output tokens the matcher has consumed.

    A guide without a matcher has failed: its mask admits EOS alone, and its ticket says why.
    """

    ticket: Ticket
    key: str
    matcher: LLMatcher | None
    consumed: int = 0
    output: Sequence[int] = ()
    """The engine's own list of the request's output tokens, where it keeps one on the host."""
    taken: bool = False
    released: bool = False

    def rewind(self) -> None:
        """Back to the grammar's start. Costs about 6 us."""
        self.consumed = 0
        if self.matcher is not None:
            self.matcher.reset()


@dataclass(slots=True)
class MatcherPool:
    """Idle matchers by grammar, least recently used first out. A reset matcher keeps the lexer states it has learned."""

    tokenizer: LLTokenizer
    capacity: int = POOLED_MATCHERS
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
        return new_matcher(self.tokenizer, grammar)

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


class GuideStore:
    """A worker's guides by ticket: prepared in the background, before their requests reach the engine.

    ``prepare`` may compile for seconds and never holds up the engine's steps; ``take`` and ``release`` are called
    between steps, from the thread that runs them.
    """

    def __init__(self, tokenizer: LLTokenizer, table: TicketTable, *, rank: int = 0, counts: bool = True, threads: int = 2) -> None:
        """``counts``: whether this rank is the one that counts steps; failures are every rank's to report."""
        self.tokenizer = tokenizer
        self.table = table
        self.counts = counts
        self._rank = rank
        self._pool = MatcherPool(tokenizer)
        self._guides: dict[Ticket, Guide] = {}
        self._preparing: set[Ticket] = set()
        self._lock = threading.Lock()
        self._compilers = ThreadPoolExecutor(threads, thread_name_prefix="ananke-compile")

    def prepare(self, ticket: Ticket, grammar: str) -> None:
        """Begin to make a guide; returns at once. The ticket says when it is ready."""
        with self._lock:
            self._preparing.add(ticket)
        self._compilers.submit(self._prepare, ticket, grammar)

    def take(self, ticket: Ticket, grammar: str) -> Guide:
        """The ticket's guide, at its grammar's start; made on the spot if it was never prepared.

        A request that is resumed after preemption takes its guide again.
        """
        with self._lock:
            guide = self._guides.get(ticket)
            if guide is None:
                self._preparing.discard(ticket)
        if guide is None:
            guide = self._make(ticket, grammar)
            with self._lock:
                self._guides[ticket] = guide
        if guide.taken and self.counts:
            self.table.count_resumption(ticket)
        guide.taken = True
        guide.rewind()
        return guide

    def release(self, ticket: Ticket) -> None:
        """Let go of a ticket's guide, once its request has ended; a batch that still holds it admits EOS alone by it."""
        with self._lock:
            self._preparing.discard(ticket)
            guide = self._guides.pop(ticket, None)
        if guide is not None:
            self._retire(guide)

    def fail(self, guide: Guide) -> None:
        """Take a guide whose matcher is in its error state out of use, and say so in its ticket."""
        assert guide.matcher is not None
        self.table.fail(guide.ticket, *failure_of(guide.matcher))
        guide.matcher = None

    def _prepare(self, ticket: Ticket, grammar: str) -> None:
        try:
            guide = self._make(ticket, grammar)
            with self._lock:
                wanted = ticket in self._preparing
                self._preparing.discard(ticket)
                if wanted:
                    self._guides[ticket] = guide
            if not wanted:
                self._retire(guide)
        finally:
            self.table.mark_ready(ticket, self._rank)

    def _make(self, ticket: Ticket, grammar: str) -> Guide:
        key = grammar_key(grammar)
        guide = Guide(ticket, key, self._pool.take(key, grammar))
        if guide.matcher is not None and guide.matcher.is_error():
            self.fail(guide)
        return guide

    def _retire(self, guide: Guide) -> None:
        matcher, guide.matcher, guide.released = guide.matcher, None, True
        if matcher is not None:
            self._pool.give_back(guide.key, matcher)
