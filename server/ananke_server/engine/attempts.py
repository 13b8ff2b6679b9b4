"""Attempts: how often an output is sampled before one passes the verification that its constraint asks for.

Every attempt has the request's own temperature and a seed of its own: what is accepted is drawn from the model's
distribution over the mask's outputs, those left out that the validator rejects. A greedy attempt at the end would not
be, and would repeat one output, right or wrong, for every request with the same prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ananke_client.errors import DeadEndError, VerificationFailedError
from ananke_server.engine.request import Delta, Emit, joined
from ananke_server.engine.verdict import Verdict

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput

    from ananke_server.engine.timeline import Timeline
    from ananke_server.masking.tickets import Outcome

SEED_BITS = 53
"""What every JSON reader can hold."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run through the engine that came to an end of its own."""

    params: SamplingParams
    last: CompletionOutput
    outcome: Outcome | None
    """What the workers wrote of its masks."""
    verdict: Verdict | None
    """None where there was no constraint."""
    first_seed: int | None
    """The seed of the first attempt, from which the others' follow."""
    faults: tuple[str, ...] = ()
    """What was wrong with the attempts before."""

    @property
    def number(self) -> int:
        return len(self.faults) + 1


Sample = Callable[["SamplingParams", int, Emit], Awaitable[Attempt]]
"""Runs these parameters through the engine once, as the attempt of this number, and judges the output."""


async def verified_attempt(sample: Sample, params: SamplingParams, *, bound: int, emit: Emit, timeline: Timeline) -> Attempt:
    """Sample until an output passes; its text is handed to ``emit`` in one piece, that of the others never.

    An output that was cut is returned as it is: every further attempt would cost as much and might be cut as well.

    Args:
        bound: how many attempts there are at most; one alone where sampling is greedy.
        timeline: restarted at each attempt.

    Raises:
        VerificationFailedError: no attempt has passed. One in which nothing could follow the output has not.
    """
    faults: list[str] = []
    for number, tried in enumerate(attempts_of(params, bound), start=1):
        timeline.restart()
        kept: list[Delta] = []
        try:
            attempt = await sample(tried, number, kept.append)
        except DeadEndError as dead_end:
            faults.append(dead_end.message)
            continue
        assert attempt.verdict is not None, "only a constraint is verified"
        if attempt.verdict.fault is None or attempt.verdict.is_cut:
            emit(joined(kept))
            return replace(attempt, faults=tuple(faults))
        faults.append(attempt.verdict.fault)
    tries = "the output" if len(faults) == 1 else f"none of {len(faults)} outputs"
    failed = "failed" if len(faults) == 1 else "passed"
    raise VerificationFailedError(f"{tries} {failed} the verification; the last one: {faults[-1]}")


def attempts_of(params: SamplingParams, bound: int) -> Iterator[SamplingParams]:
    """The parameters of each attempt, the first as they are asked for; a request with a seed repeats itself."""
    yield params
    if _is_greedy(params):
        return
    for number in range(2, bound + 1):
        tried = params.clone()
        tried.seed = seed_of(params.seed, number)
        yield tried


def seed_of(seed: int | None, number: int) -> int:
    """The seed of an attempt after the first: the first 53 bits of SHA-256 over ``"{seed}:{number}"``."""
    digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)


def verification(attempt: Attempt, timeline: Timeline) -> dict[str, Any]:
    """What a verified request's metrics say of its attempts: ``tokens`` are those of all of them."""
    return {"attempts": attempt.number, "tokens": timeline.tokens, "faults": list(attempt.faults)}


def _is_greedy(params: SamplingParams) -> bool:
    return bool(params.temperature == 0 or params.top_k == 1)
