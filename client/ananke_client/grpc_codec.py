"""gRPC codec: requests, responses and statuses as Triton's protocol writes them."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from pydantic import BaseModel, ValidationError
from tritonclient.grpc import service_pb2

from ananke_client.connection import TLSConfig
from ananke_client.errors import (
    AnankeError,
    CancelledError,
    DeadlineExceededError,
    EngineUnavailableError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    UnauthenticatedError,
)
from ananke_client.foreign_errors import error_of_text
from ananke_client.model_info import ModelMetadata, ModelStatistics, StatisticsReply
from ananke_client.proxies import is_this_machine
from ananke_client.report import ConstraintReport
from ananke_client.request import GenerationRequest
from ananke_client.response import Outputs, Scalar, validation_report
from ananke_client.transport import Question

CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # The default backs off for up to two minutes: a server that has come back would look down for as long.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Retries are the policy's alone.
    ("grpc.enable_retries", 0),
)
_NO_PROXY: Final = (("grpc.enable_http_proxy", 0),)

# What grpc.aio itself says where a request could not be written, its connection being gone.
_NOT_WRITTEN = "Internal error from Core"

# What gRPC says on either side, under the status of an exhausted quota.
_TOO_LARGE = "message larger than max"

_NUMBERS = {"BOOL": "<?", "INT32": "<i", "INT64": "<q", "UINT32": "<I", "UINT64": "<Q", "FP32": "<f", "FP64": "<d"}

Info = TypeVar("Info", bound=BaseModel)

_ERRORS: dict[grpc.StatusCode, type[AnankeError]] = {
    grpc.StatusCode.UNAVAILABLE: EngineUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CancelledError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: InvalidRequestError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: UnauthenticatedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
}


def target_of(url: str | None) -> str:
    """The channel's target: ``url``, else ANANKE_GRPC_URL, else localhost:8001.

    Raises:
        InvalidRequestError: the URL has a scheme of HTTP.
    """
    target = url or os.environ.get("ANANKE_GRPC_URL") or "localhost:8001"
    if re.match(r"(https?|grpcs?)://", target):
        raise InvalidRequestError(f"the gRPC URL {target!r} has a scheme: give host:port, with tls=TLSConfig() where it is encrypted")
    return target


def channel_options_of(target: str) -> tuple[tuple[str, int], ...]:
    """The options of a channel to a target; one to this machine takes no proxy, whatever the environment says."""
    host = target.rpartition("/")[2].rpartition(":")[0]
    return CHANNEL_OPTIONS + (_NO_PROXY if is_this_machine(host) else ())


def credentials_of(tls: TLSConfig) -> grpc.ChannelCredentials:
    """The channel's credentials.

    Raises:
        InvalidRequestError: a file cannot be read, or is no PEM.
    """
    # gRPC itself says nothing of files that it cannot use, but in its log: every call would fail as if the server were away.
    tls.context()
    return grpc.ssl_channel_credentials(*tls.contents())


class GrpcCodec:
    """Triton's questions as calls of its gRPC service."""

    def validation(self, model: str, constraint: str, parameters: Mapping[str, int | str]) -> Question[ConstraintReport]:
        message = encode_tensors(model, {"constraint": constraint})
        _set_parameters(message, parameters)
        message.outputs.add(name="constraint_report")
        return Question("ModelInfer", message, _read_report)

    def server_live(self) -> Question[bool]:
        return Question("ServerLive", service_pb2.ServerLiveRequest(), lambda message: bool(message.live))

    def server_ready(self) -> Question[bool]:
        return Question("ServerReady", service_pb2.ServerReadyRequest(), lambda message: bool(message.ready))

    def server_version(self) -> Question[str]:
        return Question("ServerMetadata", service_pb2.ServerMetadataRequest(), lambda message: str(message.version))

    def model_ready(self, model: str) -> Question[bool]:
        return Question("ModelReady", service_pb2.ModelReadyRequest(name=model), lambda message: bool(message.ready))

    def model_metadata(self, model: str) -> Question[ModelMetadata]:
        return Question("ModelMetadata", service_pb2.ModelMetadataRequest(name=model), _info(ModelMetadata))

    def model_statistics(self, model: str) -> Question[list[ModelStatistics]]:
        read = _info(StatisticsReply)
        return Question("ModelStatistics", service_pb2.ModelStatisticsRequest(name=model), lambda message: read(message).model_stats)


def encode_generation(request: GenerationRequest, model_name: str) -> service_pb2.ModelInferRequest:
    """The message that starts a generation."""
    message = encode_tensors(model_name, request.tensors())
    message.id = request.request_id
    _set_parameters(message, request.parameters())
    return message


def encode_command(model_name: str, parameters: dict[str, str | bool]) -> service_pb2.ModelInferRequest:
    """The message of a command, which has no tensors."""
    message = service_pb2.ModelInferRequest(model_name=model_name)
    _set_parameters(message, parameters)
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
    if code is grpc.StatusCode.INTERNAL and text == _NOT_WRITTEN:
        code = grpc.StatusCode.UNAVAILABLE
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in text:
        code = grpc.StatusCode.INVALID_ARGUMENT
    return error_of_text(text) or _ERRORS.get(code, InternalError)(f"{code.name}: {text}")


def metadata_of(headers: dict[str, str]) -> Sequence[tuple[str, str]]:
    """Headers as gRPC's metadata."""
    return tuple(headers.items())


def _set_parameters(message: service_pb2.ModelInferRequest, parameters: Mapping[str, int | str | bool]) -> None:
    for name, value in parameters.items():
        if isinstance(value, str):
            message.parameters[name].string_param = value
        elif isinstance(value, bool):
            message.parameters[name].bool_param = value
        else:
            message.parameters[name].int64_param = value


def _read_report(message: service_pb2.ModelInferResponse) -> ConstraintReport:
    outputs = decode_outputs(message)
    if "constraint_report" not in outputs:
        raise InternalError("the validation has no constraint_report")
    return validation_report(str(outputs["constraint_report"]))


def _info(kind: type[Info]) -> Callable[[Message], Info]:
    def read(message: Message) -> Info:
        fields: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
        try:
            return kind.model_validate(fields)
        except ValidationError as error:
            raise InternalError(f"Triton's reply is malformed: {error}") from error

    return read


def _error_of_text(text: str) -> AnankeError:
    """The error of a text: a model's own, or one of a request that Triton refused before a model ran."""
    return error_of_text(text) or InvalidRequestError(text)


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
