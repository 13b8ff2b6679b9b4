"""Spans of what has happened, made when it is over."""

from __future__ import annotations

import os
import time
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ananke_server.engine.request import GenerateRequest
from ananke_server.engine.timeline import Timeline
from ananke_server.tracing.ids import Ids, PlannedIds

_PHASES = ("queue", "prefill", "decode")


class _Clock:
    """Now by both clocks, so that moments of the monotonic one become nanoseconds since 1970."""

    def __init__(self) -> None:
        self.moment = time.monotonic()
        self.now = time.time_ns()

    def time(self, moment: float) -> int:
        return self.now - round((self.moment - moment) * 1e9)


class Tracing:
    """Hands spans to a thread that sends them in batches; may be called from any thread. What the collector does not take is dropped."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._ids = PlannedIds()
        resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or "ananke"})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ananke")

    def validation(self, parameters: dict[str, Any], caller_id: str, begun: float, *, cached: bool, refusal: str | None) -> None:
        """A constraint was validated between ``begun`` and now, for the request with these parameters and this id."""
        context = _caller(parameters.get("traceparent"))
        if (ids := Ids.of(caller_id, str(parameters.get("attempt_id") or ""))) is not None:
            context = self._within(ids, context)
        attributes: dict[str, Any] = {"ananke.request_id": caller_id, "ananke.cached": cached}
        if refusal is not None:
            attributes["ananke.refusal"] = refusal
        clock = _Clock()
        self._tracer.start_span("validate", context, attributes=attributes, start_time=clock.time(begun)).end(clock.now)

    def generation(self, request: GenerateRequest, outcome: str, tokens: int, timeline: Timeline, finish_reason: str | None) -> None:
        """A request has ended now, with so many tokens; ``outcome`` is ``ok`` or an error's code."""
        clock = _Clock()
        with self._ids.planned(Ids.of(request.caller_id, request.attempt_id)):
            root = self._tracer.start_span(
                "generate",
                _caller(request.traceparent),
                trace.SpanKind.SERVER,
                _attributes(request, outcome, tokens, timeline, finish_reason),
                start_time=clock.time(timeline.arrived),
            )
        if outcome != "ok":
            root.set_status(trace.StatusCode.ERROR, outcome)
        context = trace.set_span_in_context(root)
        for name, begun, ended, attempt in _phases(timeline, clock.moment):
            span = self._tracer.start_span(name, context, attributes={"ananke.attempt": attempt}, start_time=clock.time(begun))
            span.end(clock.time(ended))
        root.end(clock.now)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _within(self, ids: Ids, caller: Context) -> Context:
        """The span ``generate`` of a request, which another process will make, sampled as it will be."""
        parent = trace.get_current_span(caller).get_span_context()
        trace_id = parent.trace_id if parent.is_valid else ids.trace
        sampled = self._provider.sampler.should_sample(caller, trace_id, "generate").decision is Decision.RECORD_AND_SAMPLE
        flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if sampled else trace.TraceFlags.DEFAULT)
        return trace.set_span_in_context(trace.NonRecordingSpan(trace.SpanContext(trace_id, ids.span, True, flags)), caller)


def exporter() -> SpanExporter:
    """The exporter that the environment asks for: over HTTP, or over gRPC where ``OTEL_EXPORTER_OTLP_PROTOCOL`` says so."""
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _attributes(request: GenerateRequest, outcome: str, tokens: int, timeline: Timeline, finish_reason: str | None) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "ananke.request_id": request.request_id,
        "ananke.outcome": outcome,
        "ananke.constraint.kind": timeline.kind,
        "ananke.constraint.guarantee": timeline.guarantee,
        "gen_ai.usage.input_tokens": timeline.input_tokens,
        "gen_ai.usage.output_tokens": tokens,
    }
    return attributes if finish_reason is None else attributes | {"gen_ai.response.finish_reasons": [finish_reason]}


def _phases(timeline: Timeline, ended: float) -> list[tuple[str, float, float, int]]:
    """Name, begin, end and attempt of each phase that began. A run that was broken off has the last one open, until ``ended``."""
    phases = []
    begun = timeline.arrived
    for attempt, run in enumerate(timeline.runs, start=1):
        moments = (begun, run.scheduled, run.first_token, run.finished or ended)
        for name, start, end in zip(_PHASES, moments, moments[1:], strict=False):
            if start is not None:
                phases.append((name, start, ended if end is None else end, attempt))
        begun = moments[-1]
    return phases or [("queue", begun, ended, 1)]


def _caller(traceparent: Any) -> Context:
    """The caller's span; none where it is missing or malformed, as W3C has it."""
    return TraceContextTextMapPropagator().extract({"traceparent": str(traceparent or "")}, Context())
