"""Metrics of the ``guided_vllm`` model on Triton's metrics endpoint."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable

from ananke_client.errors import AnankeError, ErrorCode
from ananke_server.engine.request import GenerateResult
from ananke_server.triton.counters import Counters, Key
from ananke_server.triton.responses import ResponsePipe

REQUESTS = "ananke_requests_total"
OUTPUT_TOKENS = "ananke_output_tokens_total"
FIRST_TOKENS, FIRST_TOKEN_SECONDS = "ananke_time_to_first_token_seconds_count", "ananke_time_to_first_token_seconds_sum"
DECODE_SECONDS = "ananke_decode_seconds_total"
MASK_STEPS = "ananke_mask_steps_total"
MASK_SECONDS = "ananke_mask_seconds_total"
FAST_MASKS = "ananke_masks_under_50_us_total"
MASK_WAIT_SECONDS = "ananke_mask_wait_seconds_total"
RESPONSES = "ananke_responses_total"
COALESCED = "ananke_coalesced_deltas_total"
RUNNING = "ananke_requests_running"
_FAMILIES = {
    REQUESTS: "Requests answered, by outcome (ok, or the error's code) and whether they had a constraint",
    OUTPUT_TOKENS: "Tokens of answers, those of requests that failed later included",
    FIRST_TOKENS: "Requests that ended well and had a first token",
    FIRST_TOKEN_SECONDS: "Seconds from the arrival of those requests in the model to their first token",
    DECODE_SECONDS: "Seconds from the first token of those requests to their last",
    MASK_STEPS: "Masks applied, one for each token of a constrained request",
    MASK_SECONDS: "Seconds spent on computing masks, on all threads",
    FAST_MASKS: "Masks that took less than 50 microseconds",
    MASK_WAIT_SECONDS: "Seconds that the engine's steps waited for masks, counted for each constrained request of a step",
    RESPONSES: "Responses sent to Triton",
    COALESCED: "Pieces of streams that were sent together with others since responses were behind",
    RUNNING: "Requests that the engine has taken and not yet ended",
}


class GuidedMetrics:
    """Counts how requests end; what their responses come to is counted by the pipe, and what runs by the engine.

    Args:
        running: gives the number of requests that run; called from the reporting thread.
    """

    def __init__(self, pipe: ResponsePipe, running: Callable[[], int]) -> None:
        self._pipe = pipe
        self._running = running
        self._counted: defaultdict[Key, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._counters = Counters(_FAMILIES, [(name, ()) for name in _FAMILIES if name != REQUESTS], self._totals, gauges=[RUNNING])

    def count_result(self, result: GenerateResult, tokens: int, *, constrained: bool) -> None:
        """A request ended well, with so many tokens."""
        timing, mask = result.metrics["timing_ms"], result.metrics.get("mask", {})
        steps = mask.get("steps", 0)
        more = {
            FIRST_TOKENS: 1 if tokens else 0,
            FIRST_TOKEN_SECONDS: timing["first_token"] / 1e3 if tokens else 0.0,
            DECODE_SECONDS: (timing["total"] - timing["first_token"]) / 1e3 if tokens else 0.0,
            MASK_STEPS: steps,
            MASK_SECONDS: steps * mask.get("us_mean", 0.0) / 1e6,
            FAST_MASKS: mask.get("under_50_us", 0),
            MASK_WAIT_SECONDS: steps * mask.get("wait_us_mean", 0.0) / 1e6,
        }
        self._count("ok", tokens, constrained, more)

    def count_error(self, error: Exception, tokens: int = 0, *, constrained: bool = False) -> None:
        """A request ended in an error, after so many tokens."""
        code = error.code if isinstance(error, AnankeError) else ErrorCode.INTERNAL
        self._count(str(code), tokens, constrained, {})

    def close(self) -> None:
        """Stop reporting."""
        self._counters.close()

    def _count(self, outcome: str, tokens: int, constrained: bool, more: dict[str, float]) -> None:
        labels = (("outcome", outcome), ("constrained", "true" if constrained else "false"))
        with self._lock:
            self._counted[REQUESTS, labels] += 1
            self._counted[OUTPUT_TOKENS, ()] += tokens
            for name, value in more.items():
                self._counted[name, ()] += value

    def _totals(self) -> dict[Key, float]:
        with self._lock:
            totals: dict[Key, float] = dict(self._counted)
        return totals | {(RESPONSES, ()): self._pipe.sent, (COALESCED, ()): self._pipe.coalesced, (RUNNING, ()): self._running()}
