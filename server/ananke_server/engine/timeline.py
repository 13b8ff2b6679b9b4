"""A request's timeline: its moments, its text and tokens so far, and the figures that follow from them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from ananke_server.engine.request import Delta
from ananke_server.masking.tickets import Outcome
from ananke_server.provenance.surroundings import now


@dataclass(slots=True)
class Timeline:
    """Moments are seconds of a monotonic clock, None while they lie ahead."""

    arrived: float = field(default_factory=time.monotonic)
    received_at: str = field(default_factory=now)
    """The time of arrival, in UTC and RFC 3339."""
    admitted: float | None = None
    first_token: float | None = None
    finished: float | None = None
    token_ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    discarded: int = 0
    """Tokens of outputs that were not accepted."""

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def tokens(self) -> int:
        """All tokens generated for the request."""
        return self.discarded + len(self.token_ids)

    def admit(self) -> None:
        """The request goes to the engine; only the first time counts."""
        if self.admitted is None:
            self.admitted = time.monotonic()

    def restart(self) -> None:
        """The output so far is discarded; another one follows."""
        self.discarded += len(self.token_ids)
        self.token_ids.clear()
        self.pieces.clear()
        self.first_token = None

    def add(self, delta: Delta, token_ids: list[int]) -> None:
        """The engine has generated tokens."""
        if token_ids and self.first_token is None:
            self.first_token = time.monotonic()
        self.token_ids.extend(token_ids)
        self.pieces.append(delta.text)

    def finish(self) -> None:
        """The engine has ended the request."""
        self.finished = time.monotonic()

    def timing(self) -> dict[str, float]:
        """Milliseconds from the request's arrival to each moment."""
        now = time.monotonic()
        moments = {"admitted": self.admitted, "first_token": self.first_token, "total": self.finished}
        return {name: round(1000 * ((now if moment is None else moment) - self.arrived), 3) for name, moment in moments.items()}

    def metrics(self, outcome: Outcome | None) -> dict[str, Any]:
        """Timing, and what the workers counted of a constrained request's masks."""
        timing, tokens = self.timing(), len(self.token_ids)
        decoding = timing["total"] - timing["first_token"]
        metrics: dict[str, Any] = {
            "timing_ms": timing,
            "time_per_output_token_ms": round(decoding / (tokens - 1), 3) if tokens > 1 else None,
        }
        if outcome is not None and outcome.steps:
            metrics["mask"] = {name: value for name, value in outcome._asdict().items() if name not in ("failure", "message")}
        return metrics
