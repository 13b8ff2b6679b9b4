"""Metrics of how requests end, summed over the processes that answer them: ``guided_vllm``, and ``generate_once`` for what it refuses."""

from __future__ import annotations

import threading
from collections import Counter

from ananke_client.errors import AnankeError, ErrorCode
from ananke_server.triton.counters import Counters, Family, Key

REQUESTS = "ananke_requests_total"
REQUEST_FAMILIES = {
    REQUESTS: Family("Requests answered, by the constraint's kind and by outcome: ok, or the error's code", labels=("kind", "outcome"))
}
UNKNOWN = "unknown"
"""The kind of a constraint that was not read."""


class RefusedRequests:
    """Counts the requests that are answered without the engine, which counts all others."""

    def __init__(self) -> None:
        self._refused: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._counters = Counters(REQUEST_FAMILIES, self._totals)

    def count(self, error: Exception) -> None:
        """A request was refused with this error before its constraint was read."""
        with self._lock:
            self._refused[code_of(error)] += 1

    def close(self) -> None:
        """Stop reporting."""
        self._counters.close()

    def _totals(self) -> dict[Key, float]:
        with self._lock:
            return {ended(UNKNOWN, code): count for code, count in self._refused.items()}


def ended(kind: str, outcome: str) -> Key:
    """The metric of the requests that ended so: ``ok``, or an error's code."""
    return REQUESTS, (("kind", kind), ("outcome", outcome))


def code_of(error: Exception) -> str:
    """The code of an error; one that is not of the closed set is internal."""
    return str(error.code if isinstance(error, AnankeError) else ErrorCode.INTERNAL)
