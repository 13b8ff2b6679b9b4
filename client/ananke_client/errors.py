"""The closed set of error codes, the same in the server, over the wire and as client exceptions.

    AnankeError
    ├── RequestError                  the request has to change
    │   ├── UnauthenticatedError          unauthenticated
    │   ├── InvalidRequestError           invalid_request
    │   ├── InvalidConstraintError        invalid_constraint
    │   ├── UnsupportedConstraintError    unsupported_constraint
    │   └── ConstraintTooLargeError       constraint_too_large
    ├── GenerationError               the constraint stands, this generation failed
    │   ├── DeadEndError                  dead_end
    │   └── VerificationFailedError       verification_failed
    ├── RetryableError                the same request may succeed later; the clients try it again (``RetryPolicy``)
    │   ├── OverloadedError               overloaded
    │   └── EngineUnavailableError        engine_unavailable
    ├── DeadlineExceededError         deadline_exceeded
    ├── CancelledError                cancelled
    └── InternalError                 internal

Over the wire an error is one text, ``[code] message``, of at most 4 KiB: gRPC drops longer ones.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import ClassVar

_RETRY_AFTER = re.compile(r"try again in (\d+(?:\.\d+)?) s\b")

WIRE_LIMIT = 4096
"""Bytes that an error's text may take over the wire, percent-encoded."""


class ErrorCode(StrEnum):
    """What went wrong, for programs."""

    UNAUTHENTICATED = "unauthenticated"
    INVALID_REQUEST = "invalid_request"
    INVALID_CONSTRAINT = "invalid_constraint"
    UNSUPPORTED_CONSTRAINT = "unsupported_constraint"
    CONSTRAINT_TOO_LARGE = "constraint_too_large"
    OVERLOADED = "overloaded"
    DEAD_END = "dead_end"
    VERIFICATION_FAILED = "verification_failed"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    INTERNAL = "internal"


class AnankeError(Exception):
    """Base of every error of this project; ``code`` says which, ``message`` where and what to change."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}"


class RequestError(AnankeError):
    """The request cannot succeed until it is changed."""


class UnauthenticatedError(RequestError):
    """The API key is missing, or the server does not admit it."""

    code = ErrorCode.UNAUTHENTICATED


class InvalidRequestError(RequestError):
    """A field of the request, other than its constraint, is missing or wrong."""

    code = ErrorCode.INVALID_REQUEST


class InvalidConstraintError(RequestError):
    """The constraint is malformed or contradicts itself."""

    code = ErrorCode.INVALID_CONSTRAINT


class UnsupportedConstraintError(RequestError):
    """The constraint is well-formed, but cannot be enforced."""

    code = ErrorCode.UNSUPPORTED_CONSTRAINT


class ConstraintTooLargeError(RequestError):
    """The constraint passes a limit of size, time or memory."""

    code = ErrorCode.CONSTRAINT_TOO_LARGE


class GenerationError(AnankeError):
    """The request was accepted, but its generation ended without a valid output."""


class DeadEndError(GenerationError):
    """No token could continue the output within the constraint."""

    code = ErrorCode.DEAD_END


class VerificationFailedError(GenerationError):
    """No sampled output passed the verification that the constraint asks for."""

    code = ErrorCode.VERIFICATION_FAILED


class RetryableError(AnankeError):
    """The server could not take the request now; the same request may succeed later."""


class OverloadedError(RetryableError):
    """The server's queue is full."""

    code = ErrorCode.OVERLOADED

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the server thinks that it can take the request; None where it does not say."""
        found = _RETRY_AFTER.search(self.message)
        return float(found[1]) if found else None


class EngineUnavailableError(RetryableError):
    """The engine, or the way to it, is down."""

    code = ErrorCode.ENGINE_UNAVAILABLE


class DeadlineExceededError(AnankeError):
    """The request's deadline passed before its end."""

    code = ErrorCode.DEADLINE_EXCEEDED


class CancelledError(AnankeError):
    """The request was cancelled."""

    code = ErrorCode.CANCELLED


class InternalError(AnankeError):
    """A fault of the server."""

    code = ErrorCode.INTERNAL


_BY_CODE: dict[ErrorCode, type[AnankeError]] = {
    error.code: error
    for error in (
        UnauthenticatedError,
        InvalidRequestError,
        InvalidConstraintError,
        UnsupportedConstraintError,
        ConstraintTooLargeError,
        OverloadedError,
        DeadEndError,
        VerificationFailedError,
        DeadlineExceededError,
        CancelledError,
        EngineUnavailableError,
        InternalError,
    )
}


def error_of(code: ErrorCode | str, message: str) -> AnankeError:
    """The exception of a code.

    Raises:
        ValueError: ``code`` is not of the closed set.
    """
    return _BY_CODE[ErrorCode(code)](message)


def to_wire(error: AnankeError) -> str:
    """The error as one text, cut at ``WIRE_LIMIT`` bytes as gRPC sends them."""
    text = str(error).encode("utf-8", errors="replace").decode("utf-8")
    size = 0
    for index, character in enumerate(text):
        size += _size_in_grpc(character)
        if size > WIRE_LIMIT:
            return text[: index - 9] + "…"
    return text


def _size_in_grpc(character: str) -> int:
    # A status message travels percent-encoded: three bytes for each that is not printable ASCII.
    return 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())


_WIRE = re.compile(rf"\[({'|'.join(ErrorCode)})\] (.*)", re.DOTALL)


def from_wire(text: str) -> AnankeError | None:
    """The error that a text carries, or None; Triton puts words of its own before it (``in ensemble 'generate', …``)."""
    found = _WIRE.search(text)
    return error_of(found[1], found[2]) if found else None
