"""Ids of traces and spans on which two processes agree without a word.

They are digests of the name that a client gives each try of a request, else of the request id: ``validate`` can name the span
``generate``, which ``guided_vllm`` makes later.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator


class Ids(NamedTuple):
    """Of a trace, and of its span ``generate``."""

    trace: int
    span: int

    @classmethod
    def of(cls, caller_id: str, attempt_id: str) -> Ids | None:
        """The ids that follow from a request's names, None where it has none."""
        if not (name := attempt_id or caller_id):
            return None
        digest = hashlib.sha256(f"ananke:{name}".encode("utf-8", errors="replace")).digest()
        return cls(int.from_bytes(digest[:16]) or 1, int.from_bytes(digest[16:24]) or 1)


class PlannedIds(RandomIdGenerator):
    """Random ids, but for the span that a thread makes while it has ids planned."""

    def __init__(self) -> None:
        self._plans = threading.local()

    @contextmanager
    def planned(self, ids: Ids | None) -> Iterator[None]:
        """Have the span made within the ``with`` block take these ids; of a trace only where it begins one."""
        self._plans.ids = ids
        try:
            yield
        finally:
            self._plans.ids = None

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if (ids := self._plan()) is None else ids.trace

    def generate_span_id(self) -> int:
        return super().generate_span_id() if (ids := self._plan()) is None else ids.span

    def _plan(self) -> Ids | None:
        plan: Ids | None = getattr(self._plans, "ids", None)
        return plan
