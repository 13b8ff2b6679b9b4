"""What vLLM itself counts: its batch, its queue, its KV cache, and when it began with each request.

vLLM's own statistics cost its frontend 2 us a token, and a Prometheus registry that nobody reads here comes on top. What is asked
for here costs the frontend 0.04 us a token, and both processes together some microseconds a step.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.engine import async_llm
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import IterationStats, SchedulerStats

from ananke_server.engine.figures import EngineFigures


def stat_logger(figures: EngineFigures) -> type[PrometheusStatLogger]:
    """What ``AsyncLLM`` takes among its ``stat_loggers``, so that an engine tells its figures."""
    return type("FiguresLogger", (_FiguresLogger,), {"figures": figures})


class _FiguresLogger(PrometheusStatLogger):
    """A ``PrometheusStatLogger`` by name alone: where none is given, vLLM adds its own."""

    figures: EngineFigures

    def __init__(self, vllm_config: Any, engine_indexes: list[int] | None = None) -> None:
        self.figures.begin()

    def record(self, scheduler_stats: SchedulerStats | None, iteration_stats: IterationStats | None, **_: Any) -> None:
        """Called by vLLM for each step."""
        figures = self.figures
        if scheduler_stats is not None:
            figures.running = scheduler_stats.num_running_reqs
            figures.waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            figures.kv_cache_usage = scheduler_stats.kv_cache_usage
            figures.prefix_queries += scheduler_stats.prefix_cache_stats.queries
            figures.prefix_hits += scheduler_stats.prefix_cache_stats.hits
        if iteration_stats is not None:
            figures.preemptions += iteration_stats.num_preempted_reqs

    def log_engine_initialized(self) -> None:
        """Nothing to tell."""

    def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
        """The engine's own state says it."""

    def record_admission_rejection(self, reason: str) -> None:
        """Requests are refused before they come to vLLM."""


class _Beginnings(IterationStats):
    """Of a request's tokens the first alone, and of its events all: what else vLLM takes down of each token is not read here."""

    def update_from_output(
        self, output: Any, engine_core_timestamp: float, is_prefilling: bool, req_stats: Any, lora_states: Any, lora_name: str | None
    ) -> None:
        if is_prefilling or output.events is not None:
            super().update_from_output(output, engine_core_timestamp, is_prefilling, req_stats, lora_states, lora_name)


def take_beginnings_alone() -> None:
    """Have every engine of this process take down no more than ``_Beginnings`` does; to be called before one is started."""
    async_llm.IterationStats = _Beginnings
