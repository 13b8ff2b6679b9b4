"""Client of Ananke for Triton: generation within constraints.

The contract's types load at once; a transport, with grpc or httpx, loads when its client is first named.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ananke_client.config import GenerationConfig
from ananke_client.constraint import (
    KINDS,
    ChoiceConstraint,
    CompositeConstraint,
    Constraint,
    ConstraintSpec,
    GrammarConstraint,
    JsonSchemaConstraint,
    RegexConstraint,
    TokenMaskConstraint,
    parse_constraint,
)
from ananke_client.errors import (
    AnankeError,
    CancelledError,
    ConstraintTooLargeError,
    DeadEndError,
    DeadlineExceededError,
    EngineUnavailableError,
    ErrorCode,
    GenerationError,
    InternalError,
    InvalidConstraintError,
    InvalidRequestError,
    OverloadedError,
    RequestError,
    RetryableError,
    UnsupportedConstraintError,
    VerificationFailedError,
)
from ananke_client.health import HealthStatus
from ananke_client.report import ConstraintReport, Diagnostic, Guarantee
from ananke_client.request import ConstraintLike, Prompt
from ananke_client.result import GenerationResult, Usage
from ananke_client.stream import GenerationStream

if TYPE_CHECKING:
    from ananke_client.grpc_client import AnankeInferenceClient
    from ananke_client.http_client import AnankeInferenceHTTPClient

__all__ = [
    "KINDS",
    "AnankeError",
    "AnankeInferenceClient",
    "AnankeInferenceHTTPClient",
    "CancelledError",
    "ChoiceConstraint",
    "CompositeConstraint",
    "Constraint",
    "ConstraintLike",
    "ConstraintReport",
    "ConstraintSpec",
    "ConstraintTooLargeError",
    "DeadEndError",
    "DeadlineExceededError",
    "Diagnostic",
    "EngineUnavailableError",
    "ErrorCode",
    "GenerationConfig",
    "GenerationError",
    "GenerationResult",
    "GenerationStream",
    "GrammarConstraint",
    "Guarantee",
    "HealthStatus",
    "InternalError",
    "InvalidConstraintError",
    "InvalidRequestError",
    "JsonSchemaConstraint",
    "OverloadedError",
    "Prompt",
    "RegexConstraint",
    "RequestError",
    "RetryableError",
    "TokenMaskConstraint",
    "UnsupportedConstraintError",
    "Usage",
    "VerificationFailedError",
    "parse_constraint",
]

_TRANSPORTS = {
    "AnankeInferenceClient": "ananke_client.grpc_client",
    "AnankeInferenceHTTPClient": "ananke_client.http_client",
}


def __getattr__(name: str) -> Any:
    if name not in _TRANSPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_TRANSPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
