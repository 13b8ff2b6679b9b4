"""Traces: spans of the phases that there were, in one trace a request, its validation included; nothing where they are off."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from trace_collector import Collector, Span, collecting
from waiting import PATIENCE, SOON

from ananke_client.request import GenerationRequest
from ananke_client.tracing import current_traceparent
from ananke_server.engine.request import GenerateRequest
from ananke_server.engine.timeline import Run, Timeline
from ananke_server.tracing import start_tracing
from ananke_server.tracing.spans import Tracing

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOT_SAMPLED = CALLER[:-1] + "0"
TRACE, SPAN = CALLER.split("-")[1:3]
ARRIVED = time.monotonic() - 1


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def tracing(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Tracing:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    started = start_tracing(None)
    assert started is not None
    return started


def sent(tracing: Tracing, collector: Collector) -> dict[str, list[Span]]:
    tracing.close()
    spans: dict[str, list[Span]] = {}
    for span in sorted(collector.spans, key=lambda span: span.begun):
        spans.setdefault(span.name, []).append(span)
    return spans


def request(traceparent: str = "", attempt: str = "try-1") -> GenerateRequest:
    return GenerateRequest("id-1-abc", "a secret prompt", caller_id="id-1", attempt_id=attempt, traceparent=traceparent)


def timeline(*runs: Run) -> Timeline:
    return Timeline("regex", guarantee="exact", input_tokens=3, arrived=ARRIVED, runs=list(runs))


def run(begun: float) -> Run:
    """One that is admitted after 10 ms, in the batch after 20, has its first token after 30 and its last after 100."""
    start = ARRIVED + begun
    return Run(start + 0.01, start + 0.02, start + 0.03, start + 0.1)


def lasted(span: Span) -> float:
    return (span.ended - span.begun) / 1e9


def test_a_generation_and_its_validation_by_another_process_are_one_trace(collector: Collector, tracing: Tracing) -> None:
    validating = start_tracing(None)
    assert validating is not None
    validating.validation({"attempt_id": "try-1"}, "id-1", time.monotonic() - 0.005, cached=False, refusal=None)
    validating.close()
    tracing.generation(request(), "ok", 7, timeline(run(0)), "stop")
    spans = sent(tracing, collector)
    [root] = spans.pop("generate")
    assert root.parent == ""
    assert root.service == "ananke"
    assert root.attributes["ananke.request_id"] == "id-1-abc"
    assert (root.attributes["gen_ai.usage.input_tokens"], root.attributes["gen_ai.usage.output_tokens"]) == (3, 7)
    assert "secret" not in str(root)
    assert abs(root.ended - time.time_ns()) < PATIENCE * 1e9
    assert {name: [(span.trace, span.parent) for span in found] for name, found in spans.items()} == {
        name: [(root.trace, root.id)] for name in ("validate", "queue", "prefill", "decode")
    }
    times = {name: lasted(found[0]) for name, found in spans.items()}
    assert 0.004 < times.pop("validate") < SOON, "it ended when it was told"
    assert times == {name: pytest.approx(seconds, abs=0.001) for name, seconds in {"queue": 0.02, "prefill": 0.01, "decode": 0.07}.items()}


def test_each_attempt_has_its_phases(collector: Collector, tracing: Tracing) -> None:
    tracing.generation(request(), "ok", 7, timeline(run(0), run(0.1)), "stop")
    spans = sent(tracing, collector)
    assert [span.attributes["ananke.attempt"] for span in spans["decode"]] == [1, 2]
    assert spans["queue"][1].begun == spans["decode"][0].ended


def test_a_request_that_failed_on_the_way_has_the_phases_that_it_began(collector: Collector, tracing: Tracing) -> None:
    waiting, prefilling = Run(), Run(scheduled=time.monotonic())
    tracing.generation(request(attempt="refused"), "invalid_constraint", 0, timeline(), None)
    tracing.generation(request(attempt="waiting"), "cancelled", 0, timeline(waiting), None)
    tracing.generation(request(attempt="prefilling"), "deadline_exceeded", 0, timeline(prefilling), None)
    spans = sent(tracing, collector)
    assert {name: len(found) for name, found in spans.items()} == {"generate": 3, "queue": 3, "prefill": 1}
    assert all(span.is_error for span in spans["generate"])
    assert len({span.trace for span in spans["generate"]}) == 3


def test_a_callers_span_is_the_parent(collector: Collector, tracing: Tracing) -> None:
    tracing.validation({"attempt_id": "try-1", "traceparent": CALLER}, "id-1", time.monotonic(), cached=True, refusal="invalid_constraint")
    tracing.generation(request(CALLER), "ok", 7, timeline(run(0)), "stop")
    spans = sent(tracing, collector)
    assert {span.trace for found in spans.values() for span in found} == {TRACE}
    [root], [validate] = spans["generate"], spans["validate"]
    assert root.parent == SPAN
    assert validate.parent == root.id
    assert (validate.attributes["ananke.cached"], validate.attributes["ananke.refusal"]) == (True, "invalid_constraint")


def test_what_its_caller_does_not_sample_is_not_sent(collector: Collector, tracing: Tracing) -> None:
    tracing.validation({"attempt_id": "try-1", "traceparent": NOT_SAMPLED}, "id-1", time.monotonic(), cached=True, refusal=None)
    tracing.generation(request(NOT_SAMPLED), "ok", 7, timeline(run(0)), "stop")
    assert not sent(tracing, collector)


def test_both_processes_sample_the_same_requests(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    tracing = start_tracing(None)
    assert tracing is not None
    for number in range(100):
        tracing.validation({"attempt_id": str(number)}, "id-1", time.monotonic(), cached=True, refusal=None)
        tracing.generation(request(attempt=str(number)), "ok", 7, timeline(run(0)), "stop")
    spans = sent(tracing, collector)
    assert {span.trace for span in spans["validate"]} == {span.trace for span in spans["generate"]}
    assert 20 < len(spans["generate"]) < 80


@pytest.mark.parametrize("traceparent", ["", "x", "00-0-0-01", "00-" + 32 * "0" + "-b7ad6b7169203331-01"])
def test_a_request_without_names_or_with_a_malformed_parent_has_a_trace_of_its_own(
    collector: Collector, tracing: Tracing, traceparent: str
) -> None:
    nameless = GenerateRequest("id", "x", traceparent=traceparent)
    tracing.generation(nameless, "ok", 7, timeline(run(0)), "stop")
    tracing.generation(nameless, "ok", 7, timeline(run(0)), "stop")
    roots = sent(tracing, collector)["generate"]
    assert [root.parent for root in roots] == ["", ""]
    assert len({root.trace for root in roots}) == 2


def test_a_collector_that_is_gone_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    tracing = start_tracing(None)
    assert tracing is not None
    begun = time.monotonic()
    for _ in range(100):
        tracing.generation(request(), "ok", 7, timeline(run(0)), "stop")
    assert time.monotonic() - begun < SOON
    tracing.close()
    assert time.monotonic() - begun < 2 * SOON


def test_over_grpc_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    from ananke_server.tracing.spans import exporter

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert isinstance(exporter(), OTLPSpanExporter)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_off_by_default_and_then_nothing_is_imported(environment: dict[str, str]) -> None:
    script = (
        "import sys, json; from ananke_server.tracing import start_tracing; "
        "print(json.dumps([start_tracing(None) is None, [name for name in sys.modules if name.startswith('opentelemetry')]]))"
    )
    printed = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) == [True, []]


@pytest.mark.parametrize("variable", ["", "the collector"])
def test_the_setting_names_a_collector_and_the_environment_another_before_it(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", variable and collector.endpoint)
    tracing = start_tracing("http://127.0.0.1:9" if variable else collector.endpoint)
    assert tracing is not None
    tracing.generation(request(), "ok", 7, timeline(run(0)), "stop")
    assert sent(tracing, collector)["generate"]


def test_the_client_sends_its_callers_span_where_there_is_one() -> None:
    def parameters() -> dict[str, int | str]:
        return GenerationRequest.of("x", None, None, stream=False, timeout=1, request_id=None).parameters()

    assert "traceparent" not in parameters()
    with TracerProvider().get_tracer("test").start_as_current_span("caller") as span:
        context = span.get_span_context()
        expected = f"00-{trace.format_trace_id(context.trace_id)}-{trace.format_span_id(context.span_id)}-{context.trace_flags:02x}"
        assert parameters()["traceparent"] == current_traceparent() == expected
    assert current_traceparent() is None
