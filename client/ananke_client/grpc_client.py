"""gRPC client: one call of ModelStreamInfer a generation, all on one channel."""

from __future__ import annotations

import contextlib

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ananke_client.client import DEFAULT_TIMEOUT, HEALTH_TIMEOUT, InferenceClient
from ananke_client.errors import InternalError
from ananke_client.grpc_codec import (
    CHANNEL_OPTIONS,
    decode_outputs,
    decode_stream,
    encode_generation,
    encode_tensors,
    error_of_call,
    target_of,
)
from ananke_client.request import GRACE, GenerationRequest
from ananke_client.response import Outputs


class AnankeInferenceClient(InferenceClient):
    """Client over gRPC.

    Args:
        url: host:port; None takes ANANKE_GRPC_URL, or else localhost:8001.
        model_name: the model that generates.
        validate_model_name: the model that validates.
        timeout: seconds that a generation may take unless its call says otherwise.

    Raises:
        InvalidRequestError: the URL has a scheme, or the timeout is not finite and positive.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        model_name: str = "generate",
        validate_model_name: str = "validate",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        super().__init__(model_name=model_name, validate_model_name=validate_model_name, timeout=timeout)
        # Triton's own client object allows one stream at a time; a channel carries any number.
        self._channel = grpc.insecure_channel(target_of(url), options=CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def _send(self, request: GenerationRequest) -> _GrpcResponses:
        message = encode_generation(request, self._model_name)
        # Triton ends the call only once the request side is closed, which the iterator's end does.
        return _GrpcResponses(self._stub.ModelStreamInfer(iter((message,)), timeout=request.timeout + GRACE))

    def _validate(self, constraint: str) -> str:
        message = encode_tensors(self._validate_model_name, {"constraint": constraint})
        message.outputs.add(name="constraint_report")
        try:
            outputs = decode_outputs(self._stub.ModelInfer(message, timeout=self._timeout + GRACE))
        except grpc.RpcError as error:
            raise error_of_call(error) from error
        if "constraint_report" not in outputs:
            raise InternalError("the validation has no constraint_report")
        return str(outputs["constraint_report"])

    def _is_live(self) -> bool:
        return bool(self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=HEALTH_TIMEOUT).live)

    def _is_ready(self) -> bool:
        return bool(self._stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=HEALTH_TIMEOUT).ready)

    def _is_model_ready(self, name: str) -> bool:
        try:
            return bool(self._stub.ModelReady(service_pb2.ModelReadyRequest(name=name), timeout=HEALTH_TIMEOUT).ready)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                raise
            return False  # an unknown model

    def _server_version(self) -> str:
        return str(self._stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=HEALTH_TIMEOUT).version)


class _GrpcResponses:
    def __init__(self, call: grpc.Call) -> None:
        self._call = call

    def __next__(self) -> Outputs:
        try:
            message = next(self._call)
        except grpc.RpcError as error:
            raise error_of_call(error) from error
        if message.error_message:
            self._finish()
        return decode_stream(message)

    def _finish(self) -> None:
        """Reads the call to its end, which follows an error at once: Triton 2.51 leaks a request that is cancelled there."""
        with contextlib.suppress(grpc.RpcError):
            for _ in self._call:
                pass

    def cancel(self) -> None:
        self._call.cancel()
