"""Whether a stream's pieces come as they are made."""

from __future__ import annotations

import time
from typing import Any


def read_as_made(stream: Any) -> list[str]:
    """The pieces of a stream, which ends with it; fails where they came in one burst."""
    pieces, arrivals = [], []
    for piece in stream:
        pieces.append(piece)
        arrivals.append(time.monotonic())
    total = stream.result.metrics["timing_ms"]["total"] / 1000
    assert arrivals[-1] - arrivals[0] > total / 3, "the pieces came in one burst"
    return pieces
