"""Metrics of guided_vllm: what is counted of a result or an error, and that Triton is told only what is new."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import backend_support as triton
import pytest
from waiting import wait_until

from ananke_client.constraint import KINDS
from ananke_client.errors import DeadEndError
from ananke_client.report import ConstraintReport
from ananke_server.constraints.cache import CacheCounts
from ananke_server.engine.figures import EngineFigures
from ananke_server.engine.life import EngineState
from ananke_server.engine.request import Delta, GenerateResult
from ananke_server.engine.timeline import Run, Timeline
from ananke_server.triton import counters
from ananke_server.triton.guided_metrics import GUIDED_FAMILIES, GuidedMetrics
from ananke_server.triton.responses import ResponsePipe

MASK = {"steps": 200, "us_mean": 30.0, "us_p99": 90.0, "under_50_us": 180, "wait_us_mean": 10.0, "wait_us_max": 40.0}


@dataclass
class Engine:
    """What the metrics read of an engine."""

    running: int = 0
    waiting: int = 0
    state: EngineState = EngineState.RUNNING
    life: Any = field(default_factory=lambda: SimpleNamespace(restarts=0))
    figures: EngineFigures = field(default_factory=EngineFigures)
    compiler: Any = field(default_factory=lambda: SimpleNamespace(counts=CacheCounts(), killed=0))


@pytest.fixture
def pipe() -> ResponsePipe:
    return ResponsePipe()


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def metrics(pipe: ResponsePipe, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuidedMetrics]:
    monkeypatch.setattr(counters, "_SECONDS_BETWEEN_REPORTS", 0.01)
    metrics = GuidedMetrics(pipe, engine)  # type: ignore[arg-type]
    yield metrics
    metrics.close()


def result(metrics: dict[str, Any], satisfied: bool | None = None, guarantee: Any = "none") -> GenerateResult:
    report = ConstraintReport(accepted=True, guarantee=guarantee, constraint_satisfied=satisfied)
    return GenerateResult("stop", 3, None, report, b"", metrics)


def timeline(kind: str, tokens: int, *, discarded: int = 0, runs: int = 1) -> Timeline:
    """A request that waited 0.1 s for its place in the batch, had its first token after 0.25 s and its last after 1.25."""
    moments = {"arrived": 100.0, "first_token": 100.25 if tokens else None, "finished": 101.25}
    made = [Run(100.05, 100.1, 100.25, 101.25) for _ in range(runs)]
    return Timeline(kind, input_tokens=3, token_ids=[1] * tokens, discarded=discarded, runs=made, **moments)  # type: ignore[arg-type]


def told(metrics: GuidedMetrics) -> dict[str, float]:
    """The totals that Triton has been told, once the reporter has run again."""
    return {name: metric.total for name, metric in _metrics(metrics) if metric.buckets is None}


def observed(metrics: GuidedMetrics) -> dict[str, list[float]]:
    """What its histograms have been told."""
    return {name: metric.observed for name, metric in _metrics(metrics) if metric.buckets is not None}


def _metrics(metrics: GuidedMetrics) -> list[tuple[str, Any]]:
    # The first of two rounds that begin from here on has ended when the second begins.
    with patch.object(metrics._counters, "_totals", wraps=metrics._counters._totals) as asked:
        wait_until(lambda: asked.call_count >= 2)
    return [
        (name + "".join(f" {label}={value}" for label, value in metric.labels.items()), metric)
        for name, family in metrics._counters._families.items()
        for metric in family.metrics
    ]


def test_every_metric_without_labels_is_there_from_the_start(metrics: GuidedMetrics) -> None:
    without = {name for name, family in GUIDED_FAMILIES.items() if not family.labels}
    values = told(metrics)
    assert values.keys() | observed(metrics).keys() >= without
    assert {name for name, value in values.items() if value} == {"ananke_engine_state state=running"}


def test_what_an_alert_counts_is_there_before_its_first_event(metrics: GuidedMetrics) -> None:
    kinds = (*KINDS, "none", "unknown")
    outcomes = ("internal", "engine_unavailable", "overloaded", "deadline_exceeded")
    assert {f"ananke_requests_total kind={kind} outcome={outcome}" for kind in kinds for outcome in outcomes} < told(metrics).keys()


def test_a_constrained_result(metrics: GuidedMetrics) -> None:
    metrics.count_result(result({"mask": MASK}, True, "exact"), 201, timeline("regex", 201))
    values = told(metrics)
    assert values["ananke_requests_total kind=regex outcome=ok"] == 1
    assert values["ananke_outputs_total guarantee=exact finish_reason=stop satisfied=true"] == 1
    assert (values["ananke_input_tokens_total"], values["ananke_output_tokens_total"]) == (3, 201)
    assert values["ananke_mask_steps_total"] == 200
    assert values["ananke_mask_seconds_total"] == pytest.approx(0.006)
    assert values["ananke_masks_under_50_us_total"] == 180
    assert values["ananke_mask_wait_seconds_total"] == pytest.approx(0.002)
    assert observed(metrics) == {
        "ananke_queue_seconds": [pytest.approx(0.1)],
        "ananke_time_to_first_token_seconds": [0.25],
        "ananke_request_seconds": [1.25],
        "ananke_time_per_output_token_seconds": [0.005],
    }


def test_lost_lines_are_the_logs_own_total_in_whatever_order_answers_tell_it(metrics: GuidedMetrics) -> None:
    name = "ananke_provenance_lines_lost_total"
    assert told(metrics)[name] == 0, "an alert is on its increase"
    for lost in (0, 3, 2):
        metrics.count_result(result({"provenance_log": {"line": "lost", "lost": lost, "error": None}}), 1, timeline("none", 1))
    assert told(metrics)[name] == 3


def test_without_mask_figures_the_rest_is_counted(metrics: GuidedMetrics) -> None:
    metrics.count_result(result({"mask": {"steps": 7, "resumed": 0}}, True, "exact"), 7, timeline("choice", 7))
    metrics.count_result(result({}), 5, timeline("none", 5))
    values = told(metrics)
    assert values["ananke_requests_total kind=none outcome=ok"] == 1
    assert (values["ananke_output_tokens_total"], values["ananke_mask_steps_total"]) == (12, 7)
    assert values["ananke_mask_seconds_total"] == 0


def test_without_a_token_no_time_of_one_is_told_and_one_alone_has_no_pace(metrics: GuidedMetrics) -> None:
    metrics.count_result(result({}), 0, timeline("none", 0))
    metrics.count_result(result({}), 1, timeline("none", 1))
    times = observed(metrics)
    assert times["ananke_request_seconds"] == [1.25, 1.25]
    assert times["ananke_time_to_first_token_seconds"] == [0.25]
    assert times["ananke_time_per_output_token_seconds"] == []


def test_a_cut_output_is_no_fault_of_ours(metrics: GuidedMetrics) -> None:
    cut = timeline("regex", 2)
    cut.is_cut = True
    metrics.count_result(result({}, False, "exact"), 2, cut)
    metrics.count_result(result({}, False, "exact"), 2, timeline("regex", 2))
    outputs = {name: value for name, value in told(metrics).items() if name.startswith("ananke_outputs_total")}
    exact = "ananke_outputs_total guarantee=exact finish_reason=stop satisfied="
    assert outputs == {exact + "cut": 1, exact + "false": 1}


def test_attempts_after_the_first_are_retries_and_their_tokens_are_told_apart(metrics: GuidedMetrics) -> None:
    metrics.count_result(result({}, True, "verified"), 4, timeline("json_schema", 4, discarded=9, runs=3))
    values = told(metrics)
    assert values["ananke_verification_retries_total"] == 2
    assert (values["ananke_output_tokens_total"], values["ananke_discarded_tokens_total"]) == (4, 9)


def test_errors_by_code_and_totals_only_grow_by_what_is_new(metrics: GuidedMetrics) -> None:
    metrics.count_error(DeadEndError("x"), 3, timeline("grammar", 3))
    assert told(metrics)["ananke_requests_total kind=grammar outcome=dead_end"] == 1
    metrics.count_error(DeadEndError("x"), 4, timeline("grammar", 4))
    metrics.count_error(ZeroDivisionError("y"), 0, Timeline())
    values = told(metrics)
    assert values["ananke_requests_total kind=grammar outcome=dead_end"] == 2
    assert values["ananke_requests_total kind=unknown outcome=internal"] == 1
    assert values["ananke_output_tokens_total"] == 7
    assert not any(observed(metrics).values())


def test_responses_and_coalesced_deltas_are_the_pipes(metrics: GuidedMetrics, pipe: ResponsePipe) -> None:
    sender = triton.Sender()
    responses = pipe.open(sender, stream=True)
    responses.add(Delta("a", 1))
    responses.finish(result({}))
    pipe.close()
    values = told(metrics)
    assert values["ananke_responses_total"] == len(sender.taken)
    assert values["ananke_responses_total"] + values["ananke_coalesced_deltas_total"] == 2


def test_gauges_rise_and_fall_with_the_engine(metrics: GuidedMetrics, engine: Engine) -> None:
    seen = []
    for engine.running, engine.figures.kv_cache_usage in ((3, 0.5), (1, 0.25), (0, 0.0)):
        values = told(metrics)
        seen.append((values["ananke_requests_running"], values["ananke_kv_cache_usage_ratio"]))
    assert seen == [(3, 0.5), (1, 0.25), (0, 0.0)]


def test_the_engine_is_in_one_state_at_a_time(metrics: GuidedMetrics, engine: Engine) -> None:
    for engine.state in (EngineState.ASLEEP, EngineState.WAKING, EngineState.RUNNING, EngineState.FAILED):
        values = told(metrics)
        states = {name: value for name, value in values.items() if name.startswith("ananke_engine_state")}
        assert states == {f"ananke_engine_state state={state}": float(state is engine.state) for state in EngineState}
