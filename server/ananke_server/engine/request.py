"""Requests and results of the engine, free of Triton and of vLLM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ananke_client.report import ConstraintReport


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What a caller asks for.

    ``request_id`` is unique; ``caller_id`` is what the caller named the request, and ``attempt_id`` this try of it, both perhaps "".
    ``traceparent`` is the caller's span, as W3C writes it, or "".
    ``timeout`` and ``lease`` are in seconds from the request's arrival; ``sealed`` is a compiled constraint from ``validate``.
    """

    request_id: str
    prompt: str
    constraint: str | None = None
    sealed: bytes | None = None
    sampling_parameters: str | None = None
    timeout: float | None = None
    exclude_input_in_output: bool | None = None
    stream: bool = False
    caller_id: str = ""
    attempt_id: str = ""
    traceparent: str = ""
    lease: float | None = None
    client: str = ""
    """Whose request it is, for a fair share of the engine: the API key's name where keys are checked, else what the caller says."""
    key_name: str = ""
    """The name of the API key that the request came with, "" where none is checked."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a caller wants done to its requests under way, or to know of the engine."""

    verb: Literal["cancel", "renew", "status"]
    names: tuple[str, ...] = ()
    """Request ids or attempt ids; ``status`` takes none."""
    key_name: str = ""
    """The name of the API key that the command came with: it is about requests of that key alone."""


@dataclass(frozen=True, slots=True)
class Delta:
    """Text that was generated since the last delta, and how many tokens it took."""

    text: str
    tokens: int
    logprobs: list[dict[str, Any]] | None = None


Emit = Callable[[Delta], None]
"""Takes a request's text, piece by piece."""


def joined(deltas: Sequence[Delta]) -> Delta:
    """Deltas as one."""
    if len(deltas) == 1:
        return deltas[0]
    logprobs = [position for delta in deltas for position in delta.logprobs or []]
    return Delta("".join(delta.text for delta in deltas), sum(delta.tokens for delta in deltas), logprobs or None)


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """What a finished request yields beside its text."""

    finish_reason: str
    input_tokens: int
    cumulative_logprob: float | None
    report: ConstraintReport
    envelope: bytes
    """The DSSE envelope of the statement about the output, without signatures where no key is set."""
    metrics: dict[str, Any]
