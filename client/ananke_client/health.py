"""Health: whether a server can take requests, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from ananke_client.errors import InternalError


@dataclass(frozen=True, kw_only=True, slots=True)
class LastError:
    """The newest error that says something of the server, not of a request."""

    code: str
    at: str
    """In UTC and RFC 3339."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStatus:
    """What the engine says of itself; asking wakes nothing and waits for no request."""

    state: str
    """``starting``, ``running``, ``falling_asleep``, ``asleep``, ``waking``, ``restarting``, ``failed`` or ``stopped``."""
    ready: bool
    """Whether requests are served: one that is asleep wakes for them."""
    model: str
    revision: str | None = None
    device: str
    versions: dict[str, str] = field(default_factory=dict)
    uptime_seconds: float
    restarts: int = 0
    """Times that the engine was started again, since it had died."""
    pending: int
    """Requests taken and not yet ended."""
    max_pending: int
    """How many of them there may be; one more is answered as overloaded."""
    running: int
    """Requests in the engine's batch at its last step."""
    waiting: int
    """Requests that wait for a place in the engine, or that its scheduler kept waiting then."""
    kv_cache_usage: float
    """Share of the KV cache in use then, 0 to 1."""
    last_error: LastError | None = None
    lost_model: str | None = None
    """A model of Triton's of which a process has ended, since when a part of the requests fails: the server has to be started again."""

    @classmethod
    def parse(cls, text: str) -> EngineStatus:
        """The status of its JSON text.

        Raises:
            InternalError: it is none.
        """
        try:
            return _STATUS.validate_json(text)
        except ValidationError as error:
            raise InternalError(f"the engine's status is malformed: {error}") from error


_STATUS = TypeAdapter(EngineStatus)


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthStatus:
    """A server's state; ``error`` says why the rest could not be learned."""

    live: bool
    ready: bool = False
    """Whether it can generate: Triton and its models are ready, and the engine says that it is."""
    models: dict[str, bool] = field(default_factory=dict)
    """Readiness of each model that the client calls."""
    server_version: str | None = None
    status: EngineStatus | None = None
    error: str | None = None
