"""Traces: the caller's span, where the caller traces with OpenTelemetry, so that the server's spans join its trace."""

from __future__ import annotations

import sys


def current_traceparent() -> str | None:
    """The active span as W3C's ``traceparent``; None without one. Imports nothing: who has a span has imported it."""
    if (api := sys.modules.get("opentelemetry.trace")) is None:
        return None
    context = api.get_current_span().get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}" if context.is_valid else None
