"""Client of Ananke for Triton: generation within constraints.

Nothing but this file loads until a name is used; grpc and httpx load with the client that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ananke_client.batch import BatchItem, Outcome
    from ananke_client.config import GenerationConfig
    from ananke_client.connection import API_KEY_HEADER, TLSConfig
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
        UnauthenticatedError,
        UnsupportedConstraintError,
        VerificationFailedError,
    )
    from ananke_client.grpc_async_client import AsyncAnankeInferenceClient
    from ananke_client.grpc_client import AnankeInferenceClient
    from ananke_client.health import EngineStatus, HealthStatus, LastError
    from ananke_client.http_async_client import AsyncAnankeInferenceHTTPClient
    from ananke_client.http_client import AnankeInferenceHTTPClient
    from ananke_client.model_info import InferenceStatistics, ModelMetadata, ModelStatistics, StatisticDuration, TensorMetadata
    from ananke_client.report import ConstraintReport, Diagnostic, Guarantee
    from ananke_client.request import ConstraintLike, Prompt
    from ananke_client.result import GenerationResult, Usage
    from ananke_client.retry import RetryPolicy
    from ananke_client.stream import AsyncGenerationStream, GenerationStream
    from ananke_client.version import __version__

__all__ = [
    "API_KEY_HEADER",
    "KINDS",
    "AnankeError",
    "AnankeInferenceClient",
    "AnankeInferenceHTTPClient",
    "AsyncAnankeInferenceClient",
    "AsyncAnankeInferenceHTTPClient",
    "AsyncGenerationStream",
    "BatchItem",
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
    "EngineStatus",
    "EngineUnavailableError",
    "ErrorCode",
    "GenerationConfig",
    "GenerationError",
    "GenerationResult",
    "GenerationStream",
    "GrammarConstraint",
    "Guarantee",
    "HealthStatus",
    "InferenceStatistics",
    "InternalError",
    "InvalidConstraintError",
    "InvalidRequestError",
    "JsonSchemaConstraint",
    "LastError",
    "ModelMetadata",
    "ModelStatistics",
    "Outcome",
    "OverloadedError",
    "Prompt",
    "RegexConstraint",
    "RequestError",
    "RetryPolicy",
    "RetryableError",
    "StatisticDuration",
    "TLSConfig",
    "TensorMetadata",
    "TokenMaskConstraint",
    "UnauthenticatedError",
    "UnsupportedConstraintError",
    "Usage",
    "VerificationFailedError",
    "__version__",
    "parse_constraint",
]

_MODULES = {
    "batch": ("BatchItem", "Outcome"),
    "config": ("GenerationConfig",),
    "connection": ("API_KEY_HEADER", "TLSConfig"),
    "constraint": (
        *("KINDS", "ChoiceConstraint", "CompositeConstraint", "Constraint", "ConstraintSpec", "GrammarConstraint"),
        *("JsonSchemaConstraint", "RegexConstraint", "TokenMaskConstraint", "parse_constraint"),
    ),
    "errors": (
        *("AnankeError", "CancelledError", "ConstraintTooLargeError", "DeadEndError", "DeadlineExceededError"),
        *("EngineUnavailableError", "ErrorCode", "GenerationError", "InternalError", "InvalidConstraintError"),
        *("InvalidRequestError", "OverloadedError", "RequestError", "RetryableError", "UnauthenticatedError"),
        *("UnsupportedConstraintError", "VerificationFailedError"),
    ),
    "grpc_async_client": ("AsyncAnankeInferenceClient",),
    "grpc_client": ("AnankeInferenceClient",),
    "health": ("EngineStatus", "HealthStatus", "LastError"),
    "http_async_client": ("AsyncAnankeInferenceHTTPClient",),
    "http_client": ("AnankeInferenceHTTPClient",),
    "model_info": ("InferenceStatistics", "ModelMetadata", "ModelStatistics", "StatisticDuration", "TensorMetadata"),
    "report": ("ConstraintReport", "Diagnostic", "Guarantee"),
    "request": ("ConstraintLike", "Prompt"),
    "result": ("GenerationResult", "Usage"),
    "retry": ("RetryPolicy",),
    "stream": ("AsyncGenerationStream", "GenerationStream"),
    "version": ("__version__",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
