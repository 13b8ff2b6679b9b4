"""gRPC codec: requests, responses and statuses as Triton's protocol writes them."""

from __future__ import annotations

import os
import re
import struct

import grpc
from tritonclient.grpc import service_pb2

from ananke_client.errors import (
    AnankeError,
    CancelledError,
    DeadlineExceededError,
    EngineUnavailableError,
    InternalError,
    InvalidRequestError,
    from_wire,
)
from ananke_client.request import GenerationRequest
from ananke_client.response import Outputs, Scalar

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # The default backs off for up to two minutes: a server that has come back would look down for as long.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
)

_UNAVAILABLE = re.compile("shutting down|not ready|no available versions|maximum queue size")

_NUMBERS = {"BOOL": "<?", "INT32": "<i", "INT64": "<q", "UINT32": "<I", "UINT64": "<Q", "FP32": "<f", "FP64": "<d"}

_ERRORS: dict[grpc.StatusCode, type[AnankeError]] = {
    grpc.StatusCode.UNAVAILABLE: EngineUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CancelledError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: InvalidRequestError,
}


def target_of(url: str | None) -> str:
    """The channel's target: ``url``, else ANANKE_GRPC_URL, else localhost:8001.

    Raises:
        InvalidRequestError: the URL has a scheme of HTTP.
    """
    target = url or os.environ.get("ANANKE_GRPC_URL") or "localhost:8001"
    if re.match(r"(https?|grpcs?)://", target):
        raise InvalidRequestError(f"the gRPC URL {target!r} has a scheme: give host:port")
    return target


def encode_generation(request: GenerationRequest, model_name: str) -> service_pb2.ModelInferRequest:
    """The message that starts a generation."""
    message = encode_tensors(model_name, request.tensors())
    message.id = request.request_id
    message.parameters["deadline_ms"].int64_param = request.deadline_ms
    return message


def encode_tensors(model_name: str, tensors: dict[str, str | bool]) -> service_pb2.ModelInferRequest:
    """An inference request with inputs of shape [1]."""
    message = service_pb2.ModelInferRequest(model_name=model_name)
    for name, value in tensors.items():
        message.inputs.add(name=name, datatype="BOOL" if isinstance(value, bool) else "BYTES", shape=[1])
        message.raw_input_contents.append(_encode(value))
    return message


def decode_stream(message: service_pb2.ModelStreamInferResponse) -> Outputs:
    """The outputs of one response of a stream.

    Errors are texts in responses: the header ``triton_grpc_error``, which would make statuses of them, is not sent, since Triton
    2.51 dies of it after some hundred failed requests.

    Raises:
        AnankeError: the response carries an error.
    """
    if message.error_message:
        raise _error_of_text(message.error_message)
    return decode_outputs(message.infer_response)


def decode_outputs(message: service_pb2.ModelInferResponse) -> Outputs:
    """The outputs of one response, without those that are empty.

    Raises:
        InternalError: a tensor's bytes do not fit its type.
    """
    if len(message.outputs) != len(message.raw_output_contents):
        raise InternalError(f"the response has {len(message.outputs)} outputs and {len(message.raw_output_contents)} buffers")
    pairs = zip(message.outputs, message.raw_output_contents, strict=True)
    decoded = ((output.name, _decode(output.name, output.datatype, raw)) for output, raw in pairs)
    return {name: value for name, value in decoded if value is not None}


def error_of_call(error: grpc.RpcError) -> AnankeError:
    """The error that a call's status stands for; of ``grpc`` and of ``grpc.aio`` alike."""
    code, text = error.code(), error.details() or ""
    return from_wire(text) or _ERRORS.get(code, InternalError)(f"{code.name}: {text}")


def _error_of_text(text: str) -> AnankeError:
    """The error of a text: a model's own, or one of a request that Triton refused before a model ran."""
    return from_wire(text) or (EngineUnavailableError if _UNAVAILABLE.search(text) else InvalidRequestError)(text)


def _encode(value: str | bool) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<?", value)
    encoded = value.encode("utf-8")
    return struct.pack("<I", len(encoded)) + encoded


def _decode(name: str, datatype: str, raw: bytes) -> Scalar | None:
    """The first element of a tensor; None where it is empty."""
    if not raw:
        return None
    try:
        if datatype == "BYTES":
            (length,) = struct.unpack_from("<I", raw)
            return raw[4 : 4 + length].decode("utf-8", errors="replace") or None
        value: int | float | bool = struct.unpack_from(_NUMBERS[datatype], raw)[0]
        return value
    except (KeyError, struct.error) as error:
        raise InternalError(f"output {name} of type {datatype} is malformed: {error}") from error
