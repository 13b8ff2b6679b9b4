"""Guides: what masks one request each, made ready in the background and held by the ticket of their request."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from llguidance import LLTokenizer

from ananke_server.masking.matchers import MAX_LEXER_STATES, MatcherPool
from ananke_server.masking.program_matcher import ProgramMatcher
from ananke_server.masking.tickets import Ticket, TicketTable


@dataclass(slots=True)
class Guide:
    """What masks one request: its matcher, and how many of its output tokens the matcher has consumed.

    A guide without a matcher has failed: its mask admits EOS alone, and its ticket says why.
    """

    ticket: Ticket
    matcher: ProgramMatcher | None
    consumed: int = 0
    output: Sequence[int] = ()
    """The engine's own list of the request's output tokens, where it keeps one on the host."""
    taken: bool = False
    released: bool = False

    def rewind(self) -> None:
        """Back to the program's start. Costs about 6 us a leaf."""
        self.consumed = 0
        if self.matcher is not None:
            self.matcher.rewind()


class GuideStore:
    """A worker's guides by ticket: prepared in the background, before their requests reach the engine.

    ``prepare`` may compile for seconds and never holds up the engine's steps; ``take`` and ``release`` are called
    between steps, from the thread that runs them.
    """

    def __init__(
        self,
        tokenizer: LLTokenizer,
        table: TicketTable,
        *,
        rank: int = 0,
        counts: bool = True,
        threads: int = 2,
        lexer_states: int = MAX_LEXER_STATES,
    ) -> None:
        """``counts``: whether this rank is the one that counts steps; failures are every rank's to report."""
        self.tokenizer = tokenizer
        self.table = table
        self.counts = counts
        self._rank = rank
        self._pool = MatcherPool(tokenizer, lexer_states=lexer_states)
        self._guides: dict[Ticket, Guide] = {}
        self._preparing: set[Ticket] = set()
        self._lock = threading.Lock()
        self._compilers = ThreadPoolExecutor(threads, thread_name_prefix="ananke-compile")

    def prepare(self, ticket: Ticket, program: str) -> None:
        """Begin to make a guide; returns at once. The ticket says when it is ready."""
        with self._lock:
            self._preparing.add(ticket)
        self._compilers.submit(self._prepare, ticket, program)

    def take(self, ticket: Ticket, program: str) -> Guide:
        """The ticket's guide, at its program's start; made on the spot if it was never prepared.

        A request that is resumed after preemption takes its guide again.
        """
        with self._lock:
            guide = self._guides.get(ticket)
            if guide is None:
                self._preparing.discard(ticket)
        if guide is None:
            guide = self._make(ticket, program)
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
        """Take a guide whose matcher has failed out of use, and say so in its ticket."""
        assert guide.matcher is not None
        failure = guide.matcher.failure()
        assert failure is not None
        self.table.fail(guide.ticket, *failure)
        guide.matcher.give_back()
        guide.matcher = None

    def _prepare(self, ticket: Ticket, program: str) -> None:
        try:
            guide = self._make(ticket, program)
            with self._lock:
                wanted = ticket in self._preparing
                self._preparing.discard(ticket)
                if wanted:
                    self._guides[ticket] = guide
            if not wanted:
                self._retire(guide)
        finally:
            self.table.mark_ready(ticket, self._rank)

    def _make(self, ticket: Ticket, program: str) -> Guide:
        guide = Guide(ticket, ProgramMatcher.of(self._pool, program))
        if guide.matcher is not None and guide.matcher.failure() is not None:
            self.fail(guide)
        return guide

    def _retire(self, guide: Guide) -> None:
        matcher, guide.matcher, guide.released = guide.matcher, None, True
        if matcher is not None:
            matcher.give_back()
