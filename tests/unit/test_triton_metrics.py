"""Metrics of guided_vllm: what is counted of a result or an error, and that Triton is told only what is new."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import backend_support as triton
import pytest

from ananke_client.errors import DeadEndError
from ananke_client.report import ConstraintReport
from ananke_server.engine.request import Delta, GenerateResult
from ananke_server.triton import counters
from ananke_server.triton.guided_metrics import GuidedMetrics
from ananke_server.triton.responses import ResponsePipe

TIMING = {"timing_ms": {"admitted": 5.0, "first_token": 250.0, "total": 1250.0}}
MASK = {"steps": 200, "us_mean": 30.0, "us_p99": 90.0, "under_50_us": 180, "wait_us_mean": 10.0, "wait_us_max": 40.0}


@pytest.fixture
def pipe() -> ResponsePipe:
    return ResponsePipe()


@pytest.fixture
def running() -> list[int]:
    return [0]


@pytest.fixture
def metrics(pipe: ResponsePipe, running: list[int], monkeypatch: pytest.MonkeyPatch) -> Iterator[GuidedMetrics]:
    monkeypatch.setattr(counters, "_SECONDS_BETWEEN_REPORTS", 0.01)
    metrics = GuidedMetrics(pipe, lambda: running[0])
    yield metrics
    metrics.close()


def result(metrics: dict[str, Any]) -> GenerateResult:
    return GenerateResult("stop", 3, None, ConstraintReport(accepted=True), {}, metrics)


def told(metrics: GuidedMetrics) -> dict[str, float]:
    """What Triton has been told, once the reporter has run again."""
    time.sleep(0.1)
    families = metrics._counters._families
    return {
        name + "".join(f" {label}={value}" for label, value in metric.labels.items()): metric.total
        for name, family in families.items()
        for metric in family.metrics
    }


def test_every_metric_without_labels_is_there_from_the_start(metrics: GuidedMetrics) -> None:
    values = told(metrics)
    assert len(values) == 11
    assert set(values.values()) == {0.0}


def test_a_constrained_result(metrics: GuidedMetrics) -> None:
    metrics.count_result(result(TIMING | {"mask": MASK}), 200, constrained=True)
    values = told(metrics)
    assert values["ananke_requests_total outcome=ok constrained=true"] == 1
    assert values["ananke_output_tokens_total"] == 200
    assert (values["ananke_time_to_first_token_seconds_count"], values["ananke_time_to_first_token_seconds_sum"]) == (1, 0.25)
    assert values["ananke_decode_seconds_total"] == 1.0
    assert values["ananke_mask_steps_total"] == 200
    assert values["ananke_mask_seconds_total"] == pytest.approx(0.006)
    assert values["ananke_masks_under_50_us_total"] == 180
    assert values["ananke_mask_wait_seconds_total"] == pytest.approx(0.002)


def test_without_mask_figures_the_rest_is_counted(metrics: GuidedMetrics) -> None:
    metrics.count_result(result(TIMING | {"mask": {"steps": 7, "resumed": 0}}), 7, constrained=True)
    metrics.count_result(result(TIMING), 5, constrained=False)
    values = told(metrics)
    assert values["ananke_requests_total outcome=ok constrained=false"] == 1
    assert (values["ananke_output_tokens_total"], values["ananke_mask_steps_total"]) == (12, 7)
    assert values["ananke_mask_seconds_total"] == 0


def test_errors_by_code_and_totals_only_grow_by_what_is_new(metrics: GuidedMetrics) -> None:
    metrics.count_error(DeadEndError("x"), 3, constrained=True)
    assert told(metrics)["ananke_requests_total outcome=dead_end constrained=true"] == 1
    metrics.count_error(DeadEndError("x"), 4, constrained=True)
    metrics.count_error(ZeroDivisionError("y"))
    values = told(metrics)
    assert values["ananke_requests_total outcome=dead_end constrained=true"] == 2
    assert values["ananke_requests_total outcome=internal constrained=false"] == 1
    assert values["ananke_output_tokens_total"] == 7


def test_responses_and_coalesced_deltas_are_the_pipes(metrics: GuidedMetrics, pipe: ResponsePipe) -> None:
    sender = triton.Sender()
    responses = pipe.open(sender, stream=True)
    responses.add(Delta("a", 1))
    responses.finish(result(TIMING))
    pipe.close()
    values = told(metrics)
    assert values["ananke_responses_total"] == len(sender.taken)
    assert values["ananke_responses_total"] + values["ananke_coalesced_deltas_total"] == 2


def test_the_gauge_of_running_requests_rises_and_falls(metrics: GuidedMetrics, running: list[int]) -> None:
    seen = []
    for running[0] in (3, 1, 0):
        seen.append(told(metrics)["ananke_requests_running"])
    assert seen == [3, 1, 0]
