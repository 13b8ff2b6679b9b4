"""What is kept of vLLM's statistics: sums and newest figures, and of each request its beginning alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("vllm")

from vllm.v1.engine import EngineCoreEvent, EngineCoreEventType, EngineCoreOutput, async_llm
from vllm.v1.metrics.loggers import StatLoggerManager
from vllm.v1.metrics.stats import IterationStats, LoRARequestStates, PrefixCacheStats, RequestStateStats, SchedulerStats

from ananke_server.engine.figures import EngineFigures
from ananke_server.engine.vllm_stats import stat_logger, take_beginnings_alone


def manager_of(figures: EngineFigures) -> StatLoggerManager:
    """vLLM's, as an engine with our logger has it."""
    return StatLoggerManager(SimpleNamespace(), custom_stat_loggers=[stat_logger(figures)], enable_default_loggers=False)


def test_vllm_adds_no_logger_of_its_own() -> None:
    manager = manager_of(EngineFigures())
    assert len(manager.stat_loggers) == 1
    manager.log_engine_initialized()
    manager.record_sleep_state(1, 1)


def test_figures_are_the_newest_and_counts_add_up_from_one_engine_to_the_next() -> None:
    figures = EngineFigures()
    manager = manager_of(figures)
    for running, usage in ((3, 0.5), (1, 0.25)):
        cached = PrefixCacheStats(queries=10, hits=4)
        steps = SchedulerStats(
            num_running_reqs=running, num_waiting_reqs=2, num_skipped_waiting_reqs=1, kv_cache_usage=usage, prefix_cache_stats=cached
        )
        iteration = IterationStats()
        iteration.num_preempted_reqs = 1
        manager.record(steps, iteration)
    manager.record(None, None)
    assert (figures.running, figures.waiting, figures.kv_cache_usage) == (1, 3, 0.25)
    manager_of(figures)
    assert (figures.running, figures.waiting, figures.kv_cache_usage) == (0, 0, 0.0)
    assert (figures.prefix_queries, figures.prefix_hits, figures.preemptions) == (20, 8, 2)


def test_of_a_request_its_beginning_is_taken_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_llm, "IterationStats", IterationStats)
    take_beginnings_alone()
    taken = async_llm.IterationStats()
    request, adapters = RequestStateStats(), LoRARequestStates()
    events = [EngineCoreEvent(EngineCoreEventType.QUEUED, 5.0), EngineCoreEvent(EngineCoreEventType.SCHEDULED, 6.0)]
    first, later = (EngineCoreOutput("r", [1], events=events if begins else None) for begins in (True, False))
    taken.update_from_output(first, 7.0, True, request, adapters, None)
    taken.update_from_output(later, 8.0, False, request, adapters, None)
    preempted = EngineCoreOutput("r", [1], events=[EngineCoreEvent(EngineCoreEventType.PREEMPTED, 8.5)])
    taken.update_from_output(preempted, 9.0, False, request, adapters, None)
    assert (request.queued_ts, request.scheduled_ts, request.first_token_ts) == (5.0, 6.0, 7.0)
    assert taken.num_preempted_reqs == 1
    assert taken.num_generation_tokens == 2, "the token between was taken down"
