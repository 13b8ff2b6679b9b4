"""Triton's tensors and errors to and from the library's types."""

from __future__ import annotations

import difflib
import json
import math
from typing import Any, Literal

import numpy as np
import triton_python_backend_utils as pb_utils

from ananke_client.errors import AnankeError, ErrorCode, InternalError, InvalidConstraintError, InvalidRequestError, to_wire
from ananke_server.engine.request import Command, Delta, GenerateRequest, GenerateResult
from ananke_server.triton.access import Access
from ananke_server.triton.under_way import MOST_NAMES

_FLAGGED = {
    "return_finish_reason": "finish_reason",
    "return_cumulative_logprob": "cumulative_logprob",
    "return_logprobs": "logprobs",
    "return_num_input_tokens": "num_input_tokens",
    "return_num_output_tokens": "num_output_tokens",
}
"""Outputs that a request has to ask for by a flag."""
_INPUTS = ("text_input", "constraint", "sampling_parameters", "stream", "exclude_input_in_output", *_FLAGGED, "deadline_ms")
_COMMANDS: tuple[Literal["cancel", "renew"], ...] = ("cancel", "renew")
PARAMETERS = ("deadline_ms", "lease_ms", "attempt_id", "client_id", "traceparent", "status", *_COMMANDS)
"""Request parameters of our own; an API key may be one too."""
# What Triton's protocols and clients have of their own.
_TRITONS = ("id", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output")
_KNOWN = frozenset((*PARAMETERS, *_TRITONS))

# By name: while Triton completes a model's configuration, pb_utils has no TritonError yet.
_TRITON_CODES = {
    ErrorCode.UNAUTHENTICATED: "INVALID_ARG",
    ErrorCode.INVALID_REQUEST: "INVALID_ARG",
    ErrorCode.INVALID_CONSTRAINT: "INVALID_ARG",
    ErrorCode.UNSUPPORTED_CONSTRAINT: "INVALID_ARG",
    ErrorCode.CONSTRAINT_TOO_LARGE: "INVALID_ARG",
    ErrorCode.OVERLOADED: "UNAVAILABLE",
    ErrorCode.ENGINE_UNAVAILABLE: "UNAVAILABLE",
    ErrorCode.CANCELLED: "CANCELLED",
}


def known_error(error: Exception) -> AnankeError:
    """The error itself, or an internal one where it is not of the closed set."""
    return error if isinstance(error, AnankeError) else InternalError(f"{type(error).__name__}: {error}")


def triton_error(error: Exception) -> Any:
    """An error with its Triton status."""
    known = known_error(error)
    status = getattr(pb_utils.TritonError, _TRITON_CODES.get(known.code, "INTERNAL"))
    return pb_utils.TritonError(to_wire(known), status)


def decode_request(request: Any, access: Access) -> GenerateRequest | Command:
    """A request of ``guided_vllm``, or a command about others.

    Raises:
        UnauthenticatedError, EngineUnavailableError: its API key is not admitted.
        InvalidRequestError: a tensor or parameter is missing or wrong.
        InvalidConstraintError: the constraint is not UTF-8.
    """
    parameters, key_name = access.admit(request)
    _check_names(parameters)
    prompt = text_of(request, "text_input")
    if command := _command(parameters, key_name):
        if prompt is not None:
            raise InvalidRequestError(f"{command.verb} is a command of its own: send it without text_input")
        return command
    if prompt is None:
        raise InvalidRequestError("text_input is missing")
    sealed = _scalar(request, "compiled")
    return GenerateRequest(
        request_id=f"{request.request_id() or 'request'}-{np.random.bytes(6).hex()}",
        caller_id=request.request_id(),
        attempt_id=_text_parameter(parameters, "attempt_id") or "",
        traceparent=_text_parameter(parameters, "traceparent") or "",
        lease=_seconds(parameters, "lease_ms"),
        client=client_of(parameters, key_name),
        key_name=key_name,
        prompt=prompt,
        constraint=text_of(request, "constraint"),
        sealed=sealed or None,
        sampling_parameters=text_of(request, "sampling_parameters"),
        timeout=deadline_of(parameters),
        exclude_input_in_output=_flag(request, "exclude_input_in_output"),
        stream=bool(_flag(request, "stream")),
    )


def client_of(parameters: dict[str, Any], key_name: str) -> str:
    """Whose a request is, for fair shares: the API key's name where keys are checked, else what the caller says.

    Raises:
        InvalidRequestError: the caller says something else than a text.
    """
    return key_name or _text_parameter(parameters, "client_id") or ""


def deadline_of(parameters: dict[str, Any]) -> float | None:
    """Seconds that a request has, if its caller says so.

    Raises:
        InvalidRequestError: they are no positive number.
    """
    return _seconds(parameters, "deadline_ms")


def _check_names(parameters: dict[str, Any]) -> None:
    """Over HTTP every key that names no tensor becomes a parameter: a misspelt ``constraint`` must not pass."""
    for name in parameters:
        if name not in _KNOWN and not name.startswith("triton_"):
            close = difflib.get_close_matches(name, _INPUTS, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; inputs: {', '.join(_INPUTS)}"
            raise InvalidRequestError(f"unknown input or parameter {name!r}{hint}")


def _command(parameters: dict[str, Any], key_name: str) -> Command | None:
    given = {verb: _text_parameter(parameters, verb) for verb in _COMMANDS}
    commands = [Command(verb, tuple(lines.split("\n")), key_name) for verb, lines in given.items() if lines is not None]
    if (status := parameters.get("status")) is not None:
        if status is not True:
            raise InvalidRequestError("the parameter status is true, or not sent")
        commands.append(Command("status"))
    if commands and len(commands[0].names) > MOST_NAMES:
        raise InvalidRequestError(f"a command names at most {MOST_NAMES} requests, not {len(commands[0].names)}: send several")
    if len(commands) > 1:
        raise InvalidRequestError(f"{' and '.join(command.verb for command in commands)} are {len(commands)} commands: send one")
    return commands[0] if commands else None


def _text_parameter(parameters: dict[str, Any], name: str) -> str | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequestError(f"the parameter {name} is a text")
    return value


def text_of(request: Any, name: str) -> str | None:
    """The text of a BYTES tensor with one element; None where the tensor was not sent.

    Raises:
        InvalidRequestError, InvalidConstraintError: it is not UTF-8.
    """
    value = _scalar(request, name)
    if value is None:
        return None
    try:
        return str(value, "utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as fault:
        error = InvalidConstraintError if name == "constraint" else InvalidRequestError
        raise error(f"{name} is not UTF-8: byte {fault.start}") from None


def outputs_of(request: Any) -> frozenset[str]:
    """The outputs that the responses to a request have. No other may be sent.

    Before 24.12 Triton frees an output that nobody takes without holding Python's lock: with Python 3.12 that ends the model's process.

    Raises:
        InvalidRequestError: a flag is malformed.
    """
    declined = {output for flag, output in _FLAGGED.items() if not _flag(request, flag)}
    return frozenset(request.requested_output_names()) - declined


def encode_delta(delta: Delta, outputs: frozenset[str]) -> Any:
    """A response with text, and its tokens' count and log-probabilities."""
    return pb_utils.InferenceResponse(output_tensors=_delta_tensors(delta, outputs))


def encode_result(delta: Delta, result: GenerateResult, outputs: frozenset[str]) -> Any:
    """The last response: the last text, and everything that is known once a request has ended."""
    tensors = _delta_tensors(delta, outputs)
    if "finish_reason" in outputs:
        tensors.append(bytes_tensor("finish_reason", result.finish_reason))
    if "cumulative_logprob" in outputs and result.cumulative_logprob is not None:
        tensors.append(pb_utils.Tensor("cumulative_logprob", np.array([result.cumulative_logprob], dtype=np.float32)))
    if "num_input_tokens" in outputs:
        tensors.append(pb_utils.Tensor("num_input_tokens", np.array([result.input_tokens], dtype=np.uint32)))
    if "constraint_report" in outputs:
        tensors.append(bytes_tensor("constraint_report", result.report.model_dump_json()))
    if "provenance" in outputs:
        tensors.append(bytes_tensor("provenance", result.envelope))
    if "metrics" in outputs:
        tensors.append(bytes_tensor("metrics", json.dumps(result.metrics)))
    return pb_utils.InferenceResponse(output_tensors=tensors)


def encode_answer(answer: bool | str, outputs: frozenset[str]) -> Any:
    """The only response to a command: whether a request of that name was under way, or the engine's status as JSON."""
    tensors = []
    if isinstance(answer, str) and "status" in outputs:
        tensors.append(bytes_tensor("status", answer))
    if isinstance(answer, bool) and "running" in outputs:
        tensors.append(pb_utils.Tensor("running", np.array([answer], dtype=np.bool_)))
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _delta_tensors(delta: Delta, outputs: frozenset[str]) -> list[Any]:
    tensors = []
    if "text_output" in outputs:
        tensors.append(bytes_tensor("text_output", delta.text))
    if "num_output_tokens" in outputs:
        tensors.append(pb_utils.Tensor("num_output_tokens", np.array([delta.tokens], dtype=np.uint32)))
    if "logprobs" in outputs:
        tensors.append(bytes_tensor("logprobs", json.dumps(delta.logprobs)))
    return tensors


def bytes_tensor(name: str, value: str | bytes) -> Any:
    """A BYTES tensor of one element."""
    data = value.encode("utf-8", errors="replace") if isinstance(value, str) else value
    return pb_utils.Tensor(name, np.array([data], dtype=np.object_))


def _scalar(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values = tensor.as_numpy().reshape(-1)
    if len(values) != 1:
        raise InvalidRequestError(f"{name} has {len(values)} elements; it takes one")
    return values[0]


def _flag(request: Any, name: str) -> bool | None:
    value = _scalar(request, name)
    return None if value is None else bool(value)


def _seconds(parameters: dict[str, Any], name: str) -> float | None:
    """The seconds of a parameter in milliseconds."""
    if (value := parameters.get(name)) is None:
        return None
    try:
        milliseconds = float(value)
    except (TypeError, ValueError):
        raise InvalidRequestError(f"{name} is a number of milliseconds") from None
    if not 0 < milliseconds < math.inf:
        raise InvalidRequestError(f"{name} must be positive and finite")
    return milliseconds / 1000
