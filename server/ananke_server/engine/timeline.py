"""A request's timeline: its moments, its text and tokens so far, and the figures that follow from them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ananke_client.report import ConstraintReport
from ananke_server.engine.request import Delta
from ananke_server.masking.tickets import Outcome
from ananke_server.provenance.surroundings import now

if TYPE_CHECKING:
    from vllm.v1.metrics.stats import RequestStateStats


@dataclass(slots=True)
class Run:
    """One way through vLLM; a verified request may have several."""

    admitted: float = field(default_factory=time.monotonic)
    scheduled: float | None = None
    """When vLLM took it into its batch."""
    first_token: float | None = None
    finished: float | None = None


@dataclass(slots=True)
class Timeline:
    """Moments are seconds of a monotonic clock, None while they lie ahead."""

    kind: str = "unknown"
    """The constraint's ``type``, ``none`` without one; unknown until it was read."""
    guarantee: str = "none"
    input_tokens: int = 0
    is_cut: bool = False
    """The output ended before it could satisfy its constraint."""
    arrived: float = field(default_factory=time.monotonic)
    received_at: str = field(default_factory=now)
    """The time of arrival, in UTC and RFC 3339."""
    runs: list[Run] = field(default_factory=list)
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

    @property
    def admitted(self) -> float | None:
        """When the request first went to the engine."""
        return self.runs[0].admitted if self.runs else None

    @property
    def scheduled(self) -> float | None:
        """When the engine first took it into its batch."""
        return self.runs[0].scheduled if self.runs else None

    def admit(self) -> None:
        """The request goes to the engine, perhaps again."""
        self.runs.append(Run())

    def restart(self) -> None:
        """The output so far is discarded; another one follows."""
        self.discarded += len(self.token_ids)
        self.token_ids.clear()
        self.pieces.clear()
        self.first_token = None

    def learn(self, report: ConstraintReport) -> None:
        """The constraint has been read."""
        self.kind = report.kind or ("none" if report.accepted else self.kind)
        self.guarantee = report.guarantee

    def add(self, delta: Delta, token_ids: Sequence[int], stats: RequestStateStats, *, first_token_at: float) -> None:
        """The engine has generated tokens; its ``stats`` of the request are by the same clock, and so is the first one's moment."""
        if token_ids and self.first_token is None:
            self.first_token = self.runs[-1].first_token = first_token_at
            self.runs[-1].scheduled = stats.scheduled_ts
        self.token_ids.extend(token_ids)
        self.pieces.append(delta.text)

    def finish(self) -> None:
        """The engine has ended the request."""
        self.finished = self.runs[-1].finished = time.monotonic()

    @property
    def seconds_per_token(self) -> float | None:
        """From the first token to the last, for each but the first; None where there is no second one."""
        if self.first_token is None or self.finished is None or len(self.token_ids) < 2:
            return None
        return (self.finished - self.first_token) / (len(self.token_ids) - 1)

    def timing(self) -> dict[str, float]:
        """Milliseconds from the request's arrival to each moment."""
        now = time.monotonic()
        moments = {"admitted": self.admitted, "first_token": self.first_token, "total": self.finished}
        return {name: round(1000 * ((now if moment is None else moment) - self.arrived), 3) for name, moment in moments.items()}

    def metrics(self, outcome: Outcome | None) -> dict[str, Any]:
        """Timing, and what the workers counted of a constrained request's masks."""
        pace = self.seconds_per_token
        metrics: dict[str, Any] = {
            "timing_ms": self.timing(),
            "time_per_output_token_ms": None if pace is None else round(1000 * pace, 3),
        }
        if outcome is not None and outcome.steps:
            metrics["mask"] = {name: value for name, value in outcome._asdict().items() if name not in ("failure", "message")}
        return metrics
