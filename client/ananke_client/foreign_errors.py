"""Foreign errors: what Triton itself says in a text without a code, the same over both transports."""

from __future__ import annotations

import re

from ananke_client.errors import AnankeError, EngineUnavailableError, OverloadedError, from_wire

_PASSING = (
    (re.compile("maximum queue size"), OverloadedError),
    (
        re.compile("shutting down|stopped accepting|not ready|not at ready state|no available versions|is not healthy"),
        EngineUnavailableError,
    ),
)


def error_of_text(text: str) -> AnankeError | None:
    """The error of a text that has a code, or in which Triton refuses what it may take later; None of any other."""
    if (error := from_wire(text)) is not None:
        return error
    return next((kind(text) for pattern, kind in _PASSING if pattern.search(text)), None)
