"""Metrics of how requests end and of their responses, summed over the processes that answer: ``guided_vllm`` and what calls it."""

from __future__ import annotations

import threading
from collections import Counter

from ananke_client.errors import AnankeError, ErrorCode
from ananke_server.triton.counters import Counters, Family, Key
from ananke_server.triton.responses import ResponsePipe

REQUESTS = "ananke_requests_total"
RESPONSES = "ananke_responses_total"
COALESCED = "ananke_coalesced_deltas_total"
REQUEST_FAMILIES = {
    REQUESTS: Family("Requests answered, by the constraint's kind and by outcome: ok, or the error's code", labels=("kind", "outcome")),
    RESPONSES: Family("Responses sent to Triton"),
    COALESCED: Family("Pieces of streams that were sent together with others since responses were behind"),
}
UNKNOWN = "unknown"
"""The kind of a constraint that was not read."""


class RefusedRequests:
    """Counts the requests that are answered without the engine, which counts all others, and the responses of a pipe."""

    def __init__(self, pipe: ResponsePipe) -> None:
        self._pipe = pipe
        self._refused: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._counters = Counters(REQUEST_FAMILIES, self._totals)

    def count(self, error: Exception) -> None:
        """A request ended in this error before its constraint was read."""
        with self._lock:
            self._refused[code_of(error)] += 1

    def close(self) -> None:
        """Stop reporting."""
        self._counters.close()

    def _totals(self) -> dict[Key, float]:
        with self._lock:
            refused = {ended(UNKNOWN, code): count for code, count in self._refused.items()}
        return refused | response_totals(self._pipe)


def ended(kind: str, outcome: str) -> Key:
    """The metric of the requests that ended so: ``ok``, or an error's code."""
    return REQUESTS, (("kind", kind), ("outcome", outcome))


def response_totals(pipe: ResponsePipe) -> dict[Key, float]:
    """The metrics of the responses that a pipe has sent."""
    return {(RESPONSES, ()): pipe.sent, (COALESCED, ()): pipe.coalesced}


def code_of(error: Exception) -> str:
    """The code of an error; one that is not of the closed set is internal."""
    return str(error.code if isinstance(error, AnankeError) else ErrorCode.INTERNAL)
