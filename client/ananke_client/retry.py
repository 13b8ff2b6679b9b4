"""Retries: which failures are tried again, after which wait, and within which deadline."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from ananke_client.deadline import Deadline
from ananke_client.errors import AnankeError, DeadlineExceededError, InvalidRequestError, OverloadedError, RetryableError


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How often a call is tried, and how long it waits in between: exponential backoff with full jitter.

    Only a ``RetryableError`` is tried again (overloaded, or the engine or the way to it down), and only while no text has been
    handed out and the call's timeout leaves room for the wait. The n-th wait is drawn evenly from 0 to
    ``min(longest, first * factor ** (n - 1))`` seconds, so that clients that failed together do not come back together ("full jitter":
    https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/). Where the server says after how many seconds it
    can take the request, they are waited beforehand, ``longest`` at most.

    Raises:
        InvalidRequestError: a value is out of its range.
    """

    attempts: int = 4
    """Tries in all; 1 never retries."""
    first: float = 0.25
    """Bound on the first wait, in seconds."""
    factor: float = 2.0
    """Growth of the bound from one wait to the next."""
    longest: float = 8.0
    """Bound on every wait, in seconds."""

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise InvalidRequestError(f"RetryPolicy: attempts is {self.attempts!r}: give a whole number from 1")
        for name, value, least in (("first", self.first, 0), ("factor", self.factor, 1), ("longest", self.longest, 0)):
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= least):
                raise InvalidRequestError(f"RetryPolicy: {name} is {value!r}: give a finite number from {least}")

    def wait(self, retry: int) -> float:
        """Seconds before the ``retry``-th retry, counted from 1; drawn anew each time."""
        try:
            bound = min(self.longest, self.first * self.factor ** (retry - 1))
        except OverflowError:
            bound = self.longest
        return random.uniform(0, bound)


class Attempts:
    """The tries of one call: how many were made, and what its timeout leaves.

    Args:
        timeout: seconds from now for all tries together.
    """

    def __init__(self, policy: RetryPolicy, timeout: float) -> None:
        self._policy = policy
        self._deadline = Deadline(timeout)
        self._failed = 0

    def remaining(self) -> float:
        """Seconds left.

        Raises:
            DeadlineExceededError: none is.
        """
        if (left := self.left()) <= 0:
            raise DeadlineExceededError(f"the timeout passed after {self._failed} failed attempts")
        return left

    def left(self) -> float:
        """Seconds left; less than 0 afterwards."""
        return self._deadline.left()

    def wait_after(self, error: AnankeError) -> float:
        """Seconds to wait before the next try.

        Raises:
            AnankeError: ``error`` itself, where no further try is safe or left; a note says how many were made.
        """
        self._failed += 1
        if isinstance(error, RetryableError) and self._failed < self._policy.attempts:
            wait = self._policy.wait(self._failed)
            if isinstance(error, OverloadedError) and error.retry_after is not None:
                wait = min(wait + error.retry_after, self._policy.longest)
            if wait < self.left():
                return wait
        if self._failed > 1:
            error.add_note(f"after {self._failed} attempts")
        raise error
