"""Metrics of the ``guided_vllm`` model on Triton's metrics endpoint."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING

from ananke_client.constraint import KINDS
from ananke_client.errors import ErrorCode
from ananke_server.engine.life import EngineState
from ananke_server.engine.request import GenerateResult
from ananke_server.engine.timeline import Timeline
from ananke_server.triton.compile_metrics import COMPILE_FAMILIES, compile_totals
from ananke_server.triton.counters import Counters, Family, Key
from ananke_server.triton.request_metrics import REQUEST_FAMILIES, UNKNOWN, code_of, ended, response_totals
from ananke_server.triton.responses import ResponsePipe

if TYPE_CHECKING:
    from ananke_server.engine.engine import GuidedEngine

OUTPUTS = "ananke_outputs_total"
INPUT_TOKENS = "ananke_input_tokens_total"
OUTPUT_TOKENS = "ananke_output_tokens_total"
DISCARDED_TOKENS = "ananke_discarded_tokens_total"
RETRIES = "ananke_verification_retries_total"
QUEUE = "ananke_queue_seconds"
FIRST_TOKEN = "ananke_time_to_first_token_seconds"
PER_TOKEN = "ananke_time_per_output_token_seconds"
WHOLE = "ananke_request_seconds"
MASK_STEPS = "ananke_mask_steps_total"
MASK_SECONDS = "ananke_mask_seconds_total"
FAST_MASKS = "ananke_masks_under_50_us_total"
MASK_WAIT_SECONDS = "ananke_mask_wait_seconds_total"
PREFIX_QUERIES = "ananke_prefix_cache_queries_total"
PREFIX_HITS = "ananke_prefix_cache_hits_total"
PREEMPTIONS = "ananke_preemptions_total"
RUNNING = "ananke_requests_running"
BATCH = "ananke_engine_batch_requests"
WAITING = "ananke_requests_waiting"
KV_CACHE = "ananke_kv_cache_usage_ratio"
STATE = "ananke_engine_state"
RESTARTS = "ananke_engine_restarts_total"
LOST_LINES = "ananke_provenance_lines_lost_total"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_PACE = (0.002, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_TELLING = (ErrorCode.INTERNAL, ErrorCode.ENGINE_UNAVAILABLE, ErrorCode.OVERLOADED, ErrorCode.DEADLINE_EXCEEDED)
GUIDED_FAMILIES = COMPILE_FAMILIES | REQUEST_FAMILIES | {
    OUTPUTS: Family(
        "Outputs of the requests that ended well, by what was promised of them, by what ended them, and by whether they satisfy: "
        "true, cut (they could not yet), false (a fault of ours), or none (no constraint)",
        labels=("guarantee", "finish_reason", "satisfied"),
    ),
    INPUT_TOKENS: Family("Tokens of the prompts that came as far as the engine"),
    OUTPUT_TOKENS: Family("Tokens of answers, those of requests that failed later included"),
    DISCARDED_TOKENS: Family("Tokens that went into no answer: those of outputs that verification rejected, or that were not finished"),
    RETRIES: Family("Outputs sampled again since verification rejected the one before"),
    QUEUE: Family(
        "Seconds from a request's arrival in the model to its first step in the engine's batch", "histogram", buckets=_SECONDS
    ),
    FIRST_TOKEN: Family(
        "Seconds from a request's arrival in the model to the first token of its answer: when its text is there where it streams, "
        "else when the engine had it",
        "histogram",
        buckets=_SECONDS,
    ),
    PER_TOKEN: Family("Seconds a token after the first, observed once for each request of two tokens or more", "histogram", buckets=_PACE),
    WHOLE: Family("Seconds from a request's arrival in the model to its last token", "histogram", buckets=_SECONDS),
    MASK_STEPS: Family("Masks applied, one for each token of a constrained request"),
    MASK_SECONDS: Family("Seconds spent on computing masks, on all threads"),
    FAST_MASKS: Family("Masks that took less than 50 microseconds"),
    MASK_WAIT_SECONDS: Family("Seconds that the engine's steps waited for masks, counted for each constrained request of a step"),
    PREFIX_QUERIES: Family("Tokens of prompts looked up in the engine's prefix cache"),
    PREFIX_HITS: Family("Tokens of prompts found in the engine's prefix cache"),
    PREEMPTIONS: Family("Times that a request lost its place in the KV cache to others and had to begin again"),
    RUNNING: Family("Requests that the model has taken and not yet ended", "gauge"),
    BATCH: Family("Requests in the engine's batch at its last step", "gauge"),
    WAITING: Family(
        "Requests that are prepared or wait for a place in the engine, and those that its scheduler kept waiting at its last step", "gauge"
    ),
    KV_CACHE: Family("Share of the KV cache in use at the engine's last step, 0 to 1", "gauge"),
    RESTARTS: Family("Times that the engine was started again, since it or its mask processes had died"),
    LOST_LINES: Family("Lines that the provenance log could not write, as of the newest answer"),
    STATE: Family("1 for the state that the engine is in, 0 for the others", "gauge", labels=("state",)),
}


class GuidedMetrics:
    """Counts how requests end, once for each; what their responses come to is counted by the pipe, and what runs by the engine."""

    def __init__(self, pipe: ResponsePipe, engine: GuidedEngine) -> None:
        self._pipe = pipe
        self._engine = engine
        self._counted: defaultdict[Key, float] = defaultdict(float)
        self._observed: list[tuple[Key, float]] = []
        self._lost_lines = 0
        self._lock = threading.Lock()
        at_zero: list[Key] = [(STATE, (("state", state),)) for state in EngineState]
        # Alerts are on their increase, which a counter that begins with its first event does not have.
        at_zero.append((OUTPUTS, (("guarantee", "exact"), ("finish_reason", "stop"), ("satisfied", "false"))))
        at_zero.extend(ended(kind, outcome) for kind in (*KINDS, "none", UNKNOWN) for outcome in _TELLING)
        at_zero.append(ended("none", "ok"))
        self._counters = Counters(GUIDED_FAMILIES, self._totals, self._observations, at_zero=at_zero)

    def count_result(self, result: GenerateResult, tokens: int, timeline: Timeline) -> None:
        """A request ended well, with so many tokens."""
        report, mask = result.report, result.metrics.get("mask", {})
        steps = mask.get("steps", 0)
        satisfied = "cut" if timeline.is_cut else _word(report.constraint_satisfied)
        output = (("guarantee", report.guarantee), ("finish_reason", result.finish_reason), ("satisfied", satisfied))
        counts: dict[Key, float] = {
            (OUTPUTS, output): 1,
            (MASK_STEPS, ()): steps,
            (MASK_SECONDS, ()): steps * mask.get("us_mean", 0.0) / 1e6,
            (FAST_MASKS, ()): mask.get("under_50_us", 0),
            (MASK_WAIT_SECONDS, ()): steps * mask.get("wait_us_mean", 0.0) / 1e6,
        }
        moments = {QUEUE: timeline.scheduled, FIRST_TOKEN: timeline.first_token, WHOLE: timeline.finished}
        times = {name: moment - timeline.arrived for name, moment in moments.items() if moment is not None}
        if timeline.seconds_per_token is not None:
            times[PER_TOKEN] = timeline.seconds_per_token
        self._count("ok", tokens, timeline, counts, times)
        # The log's own total, which answers may tell in another order than they end in.
        lost = result.metrics.get("provenance_log", {}).get("lost", 0)
        with self._lock:
            self._lost_lines = max(self._lost_lines, lost)

    def count_error(self, error: Exception, tokens: int, timeline: Timeline) -> None:
        """A request ended in an error, after so many tokens."""
        self._count(code_of(error), tokens, timeline, {}, {})

    def close(self) -> None:
        """Stop reporting."""
        self._counters.close()

    def _count(self, outcome: str, tokens: int, timeline: Timeline, counts: dict[Key, float], times: dict[str, float]) -> None:
        counts |= {
            ended(timeline.kind, outcome): 1,
            (INPUT_TOKENS, ()): timeline.input_tokens,
            (OUTPUT_TOKENS, ()): tokens,
            (DISCARDED_TOKENS, ()): max(0, timeline.tokens - tokens),
            (RETRIES, ()): max(0, len(timeline.runs) - 1),
        }
        with self._lock:
            for key, count in counts.items():
                self._counted[key] += count
            self._observed.extend(((name, ()), seconds) for name, seconds in times.items())

    def _totals(self) -> dict[Key, float]:
        with self._lock:
            totals: dict[Key, float] = {**self._counted, (LOST_LINES, ()): self._lost_lines}
        figures, current = self._engine.figures, self._engine.state
        totals |= {(STATE, (("state", state),)): float(state is current) for state in EngineState}
        return totals | compile_totals(self._engine.compiler) | response_totals(self._pipe) | {
            (PREFIX_QUERIES, ()): figures.prefix_queries,
            (PREFIX_HITS, ()): figures.prefix_hits,
            (PREEMPTIONS, ()): figures.preemptions,
            (RESTARTS, ()): self._engine.life.restarts,
            (RUNNING, ()): self._engine.running,
            (BATCH, ()): figures.running,
            (WAITING, ()): self._engine.waiting,
            (KV_CACHE, ()): figures.kv_cache_usage,
        }

    def _observations(self) -> list[tuple[Key, float]]:
        with self._lock:
            observed, self._observed = self._observed, []
        return observed


def _word(satisfied: bool | None) -> str:
    return "none" if satisfied is None else str(satisfied).lower()
