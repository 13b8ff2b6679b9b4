"""Load: a bounded number of streamed generations, timed where their text arrives."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median, quantiles

from ananke_client.client import InferenceClient
from ananke_client.config import GenerationConfig
from ananke_client.errors import AnankeError
from ananke_client.request import ConstraintLike, Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """One finished generation, in seconds from when it was sent; ``satisfied`` is None without a constraint."""

    first: float
    total: float
    tokens: int
    satisfied: bool | None

    @property
    def per_token(self) -> float | None:
        """Seconds a token after the first delta, taking that for one token; None for an output of one token."""
        return (self.total - self.first) / (self.tokens - 1) if self.tokens > 1 else None


@dataclass(frozen=True, slots=True)
class Load:
    """What became of the requests of one load, and the seconds that all of them took."""

    timings: Sequence[Timing]
    failures: Sequence[AnankeError]
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all outputs over the time that all of them took."""
        return sum(timing.tokens for timing in self.timings) / self.seconds

    def first_token(self) -> tuple[float, float] | None:
        """Median and 90th percentile of the time to first token, in seconds."""
        return _spread([timing.first for timing in self.timings])

    def per_token(self) -> tuple[float, float] | None:
        """Median and 90th percentile of the time a token, in seconds."""
        return _spread([each for timing in self.timings if (each := timing.per_token) is not None])


def run_load(
    client: InferenceClient,
    prompt: Prompt,
    constraint: ConstraintLike | None,
    config: GenerationConfig,
    *,
    requests: int,
    concurrency: int,
) -> Load:
    """Sends ``requests`` generations, ``concurrency`` of them at once, each with its own seed from ``config.seed`` on.

    An interruption closes the client, which cancels what is under way.
    """
    configs = [config.model_copy(update={"seed": (config.seed or 0) + index}) for index in range(requests)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(concurrency, "ananke-load") as pool:
        try:
            outcomes = list(pool.map(lambda own: _outcome(client, prompt, constraint, own), configs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            client.close()
            raise
    seconds = time.perf_counter() - begin
    timings = [outcome for outcome in outcomes if isinstance(outcome, Timing)]
    return Load(timings, [outcome for outcome in outcomes if isinstance(outcome, AnankeError)], seconds)


def _outcome(client: InferenceClient, prompt: Prompt, constraint: ConstraintLike | None, config: GenerationConfig) -> Timing | AnankeError:
    begin = time.perf_counter()
    first = None
    try:
        with client.generate_stream(prompt, constraint, config) as stream:
            for _ in stream:
                first = first or time.perf_counter() - begin
        total = time.perf_counter() - begin
    except AnankeError as error:
        return error
    result = stream.result
    return Timing(first=first or total, total=total, tokens=result.usage.completion_tokens, satisfied=result.constraint_satisfied)


def _spread(values: list[float]) -> tuple[float, float] | None:
    if len(values) < 2:
        return (values[0], values[0]) if values else None
    return median(values), quantiles(values, n=10, method="inclusive")[-1]
