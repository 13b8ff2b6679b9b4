"""Guides: what masks one request each, made ready ahead of it and kept until it has ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ananke_server.masking.matchers import MatcherPool
from ananke_server.masking.program_matcher import ProgramMatcher
from ananke_server.masking.tickets import Failure, MaskRecord


@dataclass(slots=True)
class Guide:
    """What masks one request: its matcher, the output tokens that it has consumed, and what was counted.

    A guide without a matcher has failed: its mask admits EOS alone, and its record says why.
    """

    program: str
    matcher: ProgramMatcher | None
    output: list[int] = field(default_factory=list)
    placement: int = 0
    record: MaskRecord = field(default_factory=MaskRecord)

    @classmethod
    def of(cls, pool: MatcherPool, program: str, *, of_schema: bool = False) -> Guide:
        """A guide at its program's start. Costs 10 us where the pool has its grammars, and otherwise what compiling them costs.

        Args:
            of_schema: as ``ProgramMatcher.of`` has it.
        """
        guide = cls(program, ProgramMatcher.of(pool, program, of_schema=of_schema))
        guide._note_failure()
        return guide

    def place(self, placement: int) -> None:
        """Note which of its request's stays in the batch a mask is for: there are several where it was preempted."""
        if placement != self.placement:
            self.record.resumed += bool(self.placement and self.output)
            self.placement = placement

    def fill(self, length: int, newest: int, address: int, words: int) -> bool:
        """Consume what was sampled since the last mask, and write the next one, ``[words]`` int32 at an address.

        Args:
            length: of the output. It is shorter than before where tokens were discarded with a preemption.
            newest: the output's last token.

        Returns:
            Whether there is a mask; without one the guide has failed.
        """
        begun = time.perf_counter_ns()
        self._follow(length, newest)
        if self.matcher is not None:
            self.matcher.fill(address, words)
            if self.matcher.is_error():
                self._renew(address, words)
        self.record.mask_ns.append(time.perf_counter_ns() - begun)
        return self.matcher is not None

    def _follow(self, length: int, newest: int) -> None:
        known = length == len(self.output) and (not length or self.output[-1] == newest)
        if known:
            return
        if length <= len(self.output):
            # Tokens were discarded with a preemption, and others may have been sampled in their place.
            del self.output[max(0, length - 1) :]
            self.output.extend([newest] if length else [])
            if self.matcher is not None:
                self._replay()
        elif length == len(self.output) + 1:
            self.output.append(newest)
            if self.matcher is not None:
                self.matcher.consume_tokens((newest,))
        else:
            self.fail(Failure.INTERNAL, f"{length - len(self.output)} tokens were sampled since the last mask")

    def _renew(self, address: int, words: int) -> None:
        """A lexer full of states that other requests have learned is no reason to fail: once more, with a new one."""
        assert self.matcher is not None
        failure = self.matcher.failure()
        if failure is not None and failure[0] is Failure.TOO_COMPLEX and self.matcher.retire():
            self.matcher = ProgramMatcher.of(self.matcher.pool, self.program, of_schema=self.matcher.of_schema)
            self._replay()
            self.matcher.fill(address, words)
        self._note_failure()

    def _replay(self) -> None:
        assert self.matcher is not None
        self.matcher.rewind()
        if self.output:
            self.matcher.consume_tokens(self.output)

    def _note_failure(self) -> None:
        if self.matcher is not None and (failure := self.matcher.failure()) is not None:
            self.fail(*failure)

    def fail(self, failure: Failure, message: str) -> None:
        """Guide no further; the first reason stands."""
        self.record.fail(failure, message)
        self.matcher = None
