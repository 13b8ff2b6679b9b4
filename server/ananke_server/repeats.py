"""Repeated keys of JSON objects, of which Python's reader would silently keep the last."""

from __future__ import annotations

from collections import Counter
from typing import Any


def repeated_key(pairs: list[tuple[str, Any]]) -> str | None:
    """The first key that stands more than once among an object's pairs, or None."""
    if len(dict(pairs)) == len(pairs):
        return None
    return next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
