"""Tickets: the numbers that constrained requests go by between the model process, the engine and the mask processes.

vLLM's outputs carry no field of a logits processor's own, and a processor never learns a request's id. So the model
process gives every constrained request a ticket, which travels in ``SamplingParams.extra_args``; whoever guides the
request keeps its record under that ticket, and hands it over when the request has ended.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np

QUICK_US = 50.0
"""Masks that took less are counted apart."""


class Failure(IntEnum):
    """Why a matcher stopped guiding its request."""

    NONE = 0
    DEAD_END = 1
    TOO_COMPLEX = 2
    INTERNAL = 3


class Ticket(NamedTuple):
    """A constrained request: its number, never used twice, and the mask process that guides it."""

    number: int
    owner: int


class Outcome(NamedTuple):
    """What was counted of a request's masks.

    ``us_mean``, ``us_p99`` and ``under_50_us`` (a count) are about the time that consuming a token and filling the next
    mask took in the mask process; the waits are how long the engine's steps stood still for the masks of the batches
    that the request was in, those of other requests included.
    """

    failure: Failure = Failure.NONE
    message: str = ""
    steps: int = 0
    resumed: int = 0
    us_mean: float = 0.0
    us_p99: float = 0.0
    under_50_us: int = 0
    wait_us_mean: float = 0.0
    wait_us_max: float = 0.0


@dataclass(slots=True)
class MaskRecord:
    """A request's counts while it runs. Eight bytes a mask and eight a wait."""

    failure: Failure = Failure.NONE
    message: str = ""
    resumed: int = 0
    mask_ns: array[int] = field(default_factory=lambda: array("Q"))
    wait_ns: array[int] = field(default_factory=lambda: array("Q"))

    def fail(self, failure: Failure, message: str) -> None:
        """The first reason stands."""
        if not self.failure:
            self.failure, self.message = failure, message

    def outcome(self) -> Outcome:
        """The counts so far."""
        masks, waits = _microseconds(self.mask_ns), _microseconds(self.wait_ns)
        return Outcome(
            failure=self.failure,
            message=self.message,
            steps=len(self.mask_ns),
            resumed=self.resumed,
            us_mean=round(float(masks.mean()), 1),
            us_p99=round(float(np.percentile(masks, 99)), 1),
            under_50_us=int((masks < QUICK_US).sum()) if len(self.mask_ns) else 0,
            wait_us_mean=round(float(waits.mean()), 1),
            wait_us_max=round(float(waits.max()), 1),
        )


def _microseconds(nanoseconds: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """As an array, of one zero where there are none."""
    return np.asarray(nanoseconds or [0], dtype=np.float64) / 1e3
