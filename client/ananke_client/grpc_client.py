"""gRPC client, synchronous."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ananke_client.background import BlockingBackground
from ananke_client.client import InferenceClient
from ananke_client.commands import ENGINE_MODEL
from ananke_client.connection import TLSConfig, headers_of
from ananke_client.errors import CancelledError
from ananke_client.exchange import DEFAULT_TIMEOUT, Exchange
from ananke_client.grpc_codec import channel_options_of, credentials_of, error_of_call, metadata_of, target_of
from ananke_client.grpc_transport import GrpcResponses, GrpcTransport
from ananke_client.retry import RetryPolicy
from ananke_client.transport import Responses


class AnankeInferenceClient(InferenceClient):
    """Client over gRPC, for threads; all calls share one connection.

    Args:
        url: host:port; None takes ANANKE_GRPC_URL, or else localhost:8001.
        model_name: the model that generates.
        validate_model_name: the model that validates.
        engine_model_name: the model that takes cancels and tells its status.
        timeout: seconds that a call may take, retries included, unless it says otherwise.
        retry: how calls are tried again; None takes ``RetryPolicy()``.
        tls: encryption; None sends plain text.
        api_key: sent as the metadata ``x-api-key``; None takes ANANKE_API_KEY, if that is set.
        headers: further metadata of every call.

    Raises:
        InvalidRequestError: the URL has a scheme, a file of ``tls`` cannot be read, a header cannot travel, or the timeout is not
            finite and positive.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        model_name: str = "generate",
        validate_model_name: str = "validate",
        engine_model_name: str = ENGINE_MODEL,
        timeout: float = DEFAULT_TIMEOUT,
        retry: RetryPolicy | None = None,
        tls: TLSConfig | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        transport = _BlockingTransport(target_of(url), tls, headers_of(api_key, headers))
        models = {"model": model_name, "validate_model": validate_model_name, "engine_model": engine_model_name}
        super().__init__(Exchange(transport, **models, timeout=timeout, retry=retry))


class _BlockingTransport(BlockingBackground, GrpcTransport):
    def __init__(self, target: str, tls: TLSConfig | None, headers: dict[str, str]) -> None:
        super().__init__()
        # Triton's own client object allows one stream at a time; a channel carries any number.
        if tls is None:
            self._channel = grpc.insecure_channel(target, options=channel_options_of(target))
        else:
            self._channel = grpc.secure_channel(target, credentials_of(tls), options=channel_options_of(target))
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._metadata = metadata_of(headers)

    def _stream(self, message: service_pb2.ModelInferRequest, timeout: float) -> Responses:
        try:
            return _BlockingResponses(self._stub.ModelStreamInfer(iter((message,)), timeout=timeout, metadata=self._metadata))
        except ValueError as error:  # grpc's word for a closed channel
            raise CancelledError(f"the client is closed: {error}") from error

    async def _call(self, method: str, message: Any, timeout: float) -> Any:
        try:
            return getattr(self._stub, method)(message, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise error_of_call(error) from error
        except ValueError as error:
            raise CancelledError(f"the client is closed: {error}") from error

    async def close(self, patience: float) -> None:
        self.finish_work(patience)
        self._channel.close()


class _BlockingResponses(GrpcResponses):
    def __init__(self, call: grpc.Call) -> None:
        self._call = call

    async def _read(self) -> service_pb2.ModelStreamInferResponse | None:
        try:
            return next(self._call, None)
        except grpc.RpcError as error:
            raise error_of_call(error) from error

    async def close(self) -> None:
        self._call.cancel()
