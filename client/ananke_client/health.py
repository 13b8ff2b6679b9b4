"""Health: whether a server can take requests."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthStatus:
    """A server's state; ``error`` says why the rest could not be learned."""

    live: bool
    ready: bool = False
    models: dict[str, bool] = field(default_factory=dict)
    """Readiness of each model that the client calls."""
    server_version: str | None = None
    error: str | None = None
