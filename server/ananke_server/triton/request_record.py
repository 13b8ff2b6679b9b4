"""The record of requests: for each that has ended a line in the log, its counts, and its trace where traces are asked for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ananke_client.errors import AnankeError, ErrorCode
from ananke_server.engine.request import GenerateRequest, GenerateResult
from ananke_server.engine.timeline import Timeline
from ananke_server.provenance.surroundings import now
from ananke_server.triton.guided_metrics import GuidedMetrics
from ananke_server.triton.request_metrics import code_of

if TYPE_CHECKING:
    from ananke_server.tracing.spans import Tracing

logger = logging.getLogger(__name__)

_OF_THE_SERVER = frozenset((ErrorCode.INTERNAL, ErrorCode.ENGINE_UNAVAILABLE, ErrorCode.OVERLOADED, ErrorCode.DEADLINE_EXCEEDED))
"""Codes that say something of the server; the others are about one request."""


class RequestRecord:
    """Takes down each request once, when it has ended. Never its prompt, constraint or output."""

    def __init__(self, metrics: GuidedMetrics, tracing: Tracing | None) -> None:
        self.last_error: dict[str, str] | None = None
        """Code and time of the newest error that says something of the server."""
        self._metrics = metrics
        self._tracing = tracing

    def finished(self, request: GenerateRequest, result: GenerateResult, tokens: int, timeline: Timeline) -> None:
        """A request ended well, with so many tokens."""
        self._metrics.count_result(result, tokens, timeline)
        self._take_down(request, "ok", tokens, timeline, result.finish_reason)

    def failed(self, request: GenerateRequest, error: Exception, tokens: int, timeline: Timeline) -> None:
        """A request ended in an error, after so many tokens."""
        if not isinstance(error, AnankeError):
            logger.error("request %s failed", request.request_id, exc_info=error, extra={"request_id": request.request_id})
        code = code_of(error)
        if code in _OF_THE_SERVER:
            self.last_error = {"code": code, "at": now()}
        self._metrics.count_error(error, tokens, timeline)
        self._take_down(request, code, tokens, timeline, None)

    def close(self) -> None:
        """Send the traces that are left."""
        if self._tracing is not None:
            self._tracing.close()

    def _take_down(self, request: GenerateRequest, outcome: str, tokens: int, timeline: Timeline, finish_reason: str | None) -> None:
        if self._tracing is not None:
            self._tracing.generation(request, outcome, tokens, timeline, finish_reason)
        if logger.isEnabledFor(logging.INFO):
            facts = {"outcome": outcome, "kind": timeline.kind, "input_tokens": timeline.input_tokens, "output_tokens": tokens}
            facts |= {"key": request.key_name} if request.key_name else {}
            facts |= {f"{name}_ms": value for name, value in timeline.timing().items()}
            text = " ".join(f"{name}={value}" for name, value in facts.items())
            logger.info("request %s: %s", request.request_id, text, extra={"request_id": request.request_id, **facts})
