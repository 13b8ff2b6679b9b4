"""Requests: a generation as the server's input tensors, whatever the transport."""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, TypeAdapter

from ananke_client.config import GenerationConfig
from ananke_client.constraint import Constraint, ConstraintSpec, JsonSchemaConstraint, is_constraint
from ananke_client.errors import AnankeError, InvalidConstraintError, InvalidRequestError
from ananke_client.patterns import pattern_text
from ananke_client.schemas import SchemaLike
from ananke_client.tracing import current_traceparent

Prompt = str | Sequence[Mapping[str, Any]]
"""A text, or chat messages with ``role`` and ``content``."""

ConstraintLike = Constraint | Mapping[str, Any] | str
"""A constraint, its JSON object or its JSON text; the last two are sent as they are."""

LEASE = 15.0
"""Seconds that the server goes on with a generation of whose client it hears nothing. A Triton that stops, in 28 s, hears of none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """One generation, checked and ready to be sent."""

    text_input: str
    constraint: str | None
    sampling_parameters: str
    stream: bool
    return_cumulative_logprob: bool
    timeout: float
    request_id: str
    attempt_id: str = ""
    """Names one try on the server; minted for each."""
    client_id: str = ""
    """Names the client, for a fair share of the server."""
    traceparent: str | None = None
    """The caller's span."""
    output_type: TypeAdapter[Any] | None = None
    """What ``parsed`` makes of the output, where the constraint was made of a type."""

    @classmethod
    def of(
        cls,
        prompt: Prompt,
        constraint: ConstraintLike | None,
        config: GenerationConfig | None,
        *,
        stream: bool,
        timeout: float,
        request_id: str | None,
        client_id: str = "",
    ) -> GenerationRequest:
        """A request of a call's arguments.

        Raises:
            InvalidRequestError: the prompt, the timeout or the request id cannot be sent, or the config is none.
            InvalidConstraintError: the constraint is not JSON.
        """
        if config is None:
            config = GenerationConfig()
        elif not isinstance(config, GenerationConfig):
            raise InvalidRequestError(f"the config is a {type(config).__name__}: give a GenerationConfig")
        return cls(
            text_input=_prompt_text(prompt),
            constraint=None if constraint is None else constraint_text(constraint),
            sampling_parameters=config.to_json(),
            stream=stream,
            return_cumulative_logprob=config.extra.get("logprobs") is not None,
            timeout=check_timeout(timeout),
            request_id=_request_id(request_id),
            client_id=client_id,
            traceparent=current_traceparent(),
            output_type=constraint.output_type if isinstance(constraint, JsonSchemaConstraint) else None,
        )

    def attempt(self, seconds: float) -> GenerationRequest:
        """One try of the request, with a name of its own, which may take so many seconds."""
        return replace(self, timeout=seconds, attempt_id=uuid.uuid4().hex)

    def parameters(self) -> dict[str, int | str]:
        """The request parameters: how long the server may take, and may hear nothing, in ms; names of try and client; the caller's span."""
        parameters: dict[str, int | str] = {
            "deadline_ms": math.ceil(self.timeout * 1000),
            "lease_ms": round(LEASE * 1000),
            "attempt_id": self.attempt_id,
        }
        if self.client_id:
            parameters["client_id"] = self.client_id
        if self.traceparent is not None:
            parameters["traceparent"] = self.traceparent
        return parameters

    def tensors(self) -> dict[str, str | bool]:
        """The value of each input tensor, all of shape [1]."""
        tensors: dict[str, str | bool] = {
            "text_input": self.text_input,
            "sampling_parameters": self.sampling_parameters,
            "stream": self.stream,
            "exclude_input_in_output": True,
            "return_finish_reason": True,
            "return_cumulative_logprob": self.return_cumulative_logprob,
            "return_logprobs": False,
            "return_num_input_tokens": True,
            "return_num_output_tokens": True,
        }
        if self.constraint is not None:
            tensors["constraint"] = self.constraint
        return tensors


def constraint_text(constraint: ConstraintLike) -> str:
    """The constraint's JSON text.

    Raises:
        InvalidConstraintError: the constraint is not JSON.
    """
    try:
        if isinstance(constraint, str):
            return _sendable(constraint, "constraint", InvalidConstraintError)
        if isinstance(constraint, Mapping):
            return json.dumps(dict(constraint), allow_nan=False)
        if not is_constraint(constraint):
            raise InvalidConstraintError(f"the constraint is {constraint!r:.200}: {_advice(constraint)}")
        return _sendable(constraint.to_json(), "constraint", InvalidConstraintError)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidConstraintError(f"the constraint is not JSON: {error}") from error


def _advice(value: object) -> str:
    if isinstance(value, BaseModel):
        return f"of its type make ConstraintSpec.json_schema({type(value).__name__})"
    if isinstance(value, re.Pattern):
        return "of a pattern make ConstraintSpec.regex(…)"
    if isinstance(value, (type, TypeAdapter)):
        return "of a type make ConstraintSpec.json_schema(…)"
    return "give one that ConstraintSpec makes, a mapping or JSON text"


def json_schema_constraint(schema: SchemaLike) -> ConstraintLike:
    """A ``json_schema`` constraint of a schema, which is sent as it is, or of a type.

    Raises:
        InvalidConstraintError: it is neither, or the type has no JSON schema.
    """
    if isinstance(schema, bool):
        return {"type": "json_schema", "schema": schema}
    if isinstance(schema, Mapping):
        return {"type": "json_schema", "schema": dict(schema)}
    return ConstraintSpec.json_schema(schema)


def regex_constraint(pattern: str | re.Pattern[str]) -> dict[str, Any]:
    """The JSON object of a ``regex`` constraint.

    Raises:
        InvalidConstraintError: a compiled pattern is of bytes, or has a flag that no dialect has.
    """
    return {"type": "regex", "pattern": pattern_text(pattern)}


def grammar_constraint(grammar: str) -> dict[str, Any]:
    """The JSON object of a ``grammar`` constraint in Lark syntax."""
    return {"type": "grammar", "syntax": "lark", "grammar": grammar}


def choice_constraint(choices: Sequence[str]) -> dict[str, Any]:
    """The JSON object of a ``choice`` constraint.

    Raises:
        InvalidRequestError: ``choices`` is one text, whose letters would be the choices.
    """
    if isinstance(choices, str):
        raise InvalidRequestError("choices is one text: give a list of texts")
    return {"type": "choice", "choices": list(choices)}


def check_timeout(timeout: float) -> float:
    """The timeout, in seconds.

    Raises:
        InvalidRequestError: it is not finite and positive.
    """
    if not (isinstance(timeout, (int, float)) and math.isfinite(timeout) and timeout > 0):
        raise InvalidRequestError(f"timeout is {timeout!r} s: it must be finite and positive")
    return timeout


def check_request_id(request_id: str) -> str:
    """The name of a request.

    Raises:
        InvalidRequestError: it is no text, empty, has a line's end, which separates names in a command, or no UTF-8 encoding.
    """
    if not isinstance(request_id, str):
        raise InvalidRequestError(f"request_id is a {type(request_id).__name__}: give a text")
    if not request_id or "\n" in request_id:
        raise InvalidRequestError(f"request_id is {'empty' if not request_id else 'of several lines'}: it is one line of text")
    return _sendable(request_id, "request_id", InvalidRequestError)


def _prompt_text(prompt: Prompt) -> str:
    if not isinstance(prompt, (str, Sequence)):
        raise InvalidRequestError(f"the prompt is a {type(prompt).__name__}: give a text or a list of messages")
    if isinstance(prompt, str):
        return _sendable(prompt, "prompt", InvalidRequestError)
    return _chat_text(prompt)


def _chat_text(messages: Sequence[Mapping[str, Any]]) -> str:
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise InvalidRequestError(f"message {index} of the prompt is no mapping with role and content")
    try:
        return json.dumps([dict(message) for message in messages], allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the prompt's messages are not JSON: {error}") from error


def _request_id(request_id: str | None) -> str:
    return uuid.uuid4().hex if request_id is None else check_request_id(request_id)


def _sendable(text: str, name: str, error: type[AnankeError]) -> str:
    """The text, if it has a UTF-8 encoding: a lone surrogate has none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as fault:
        raise error(f"{name} has no UTF-8 encoding: {fault}") from fault
    return text
