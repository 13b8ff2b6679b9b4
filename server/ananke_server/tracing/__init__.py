"""Traces: one for each request, to an OpenTelemetry collector, where a setting or ``OTEL_EXPORTER_OTLP_ENDPOINT`` names one.

    generate                     from the request's arrival in guided_vllm to its end
    ├── validate                 ahead of it, in the process of the validate model
    ├── queue                    constraint, guide and the engine's queue
    ├── prefill                  to the first token
    └── decode                   to the last; a verified request has the last three for each attempt

Every standard variable of OpenTelemetry counts. Without an endpoint nothing of it is imported.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ananke_server.tracing.spans import Tracing

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def start_tracing(endpoint: str | None) -> Tracing | None:
    """Traces to this endpoint or, before it, to that of the environment; None without any, or where the environment turns them off."""
    if endpoint is not None and not any(os.environ.get(name) for name in _ENDPOINTS):
        os.environ[_ENDPOINTS[-1]] = endpoint
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
    if off or not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    from ananke_server.tracing.spans import Tracing, exporter

    return Tracing(exporter())
