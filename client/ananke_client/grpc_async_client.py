"""gRPC client, asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ananke_client.async_client import AsyncInferenceClient
from ananke_client.background import AsyncBackground
from ananke_client.commands import ENGINE_MODEL
from ananke_client.connection import TLSConfig, headers_of
from ananke_client.errors import CancelledError
from ananke_client.exchange import DEFAULT_TIMEOUT, Exchange
from ananke_client.grpc_codec import channel_options_of, credentials_of, error_of_call, metadata_of, target_of
from ananke_client.grpc_transport import GrpcResponses, GrpcTransport
from ananke_client.retry import RetryPolicy
from ananke_client.transport import Responses


class AsyncAnankeInferenceClient(AsyncInferenceClient):
    """Client over gRPC, for one event loop; all calls share one connection.

    Args and Raises: as ``AnankeInferenceClient``.
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
        transport = _AsyncTransport(target_of(url), tls, headers_of(api_key, headers))
        models = {"model": model_name, "validate_model": validate_model_name, "engine_model": engine_model_name}
        super().__init__(Exchange(transport, **models, timeout=timeout, retry=retry))


class _AsyncTransport(AsyncBackground, GrpcTransport):
    def __init__(self, target: str, tls: TLSConfig | None, headers: dict[str, str]) -> None:
        self._target = target
        super().__init__()
        self._credentials = None if tls is None else credentials_of(tls)
        self._metadata = metadata_of(headers)
        self._channel: grpc.aio.Channel | None = None

    def _stub(self) -> service_pb2_grpc.GRPCInferenceServiceStub:
        # A channel belongs to the event loop that runs when it is made, and the client may be made before there is one.
        if self._channel is None:
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self._target, options=channel_options_of(self._target))
            else:
                self._channel = grpc.aio.secure_channel(self._target, self._credentials, options=channel_options_of(self._target))
            self._service = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        return self._service

    def _stream(self, message: service_pb2.ModelInferRequest, timeout: float) -> Responses:
        async def messages() -> AsyncIterator[service_pb2.ModelInferRequest]:
            yield message

        try:
            return _AsyncResponses(self._stub().ModelStreamInfer(messages(), timeout=timeout, metadata=self._metadata))
        except grpc.aio.UsageError as error:  # grpc's word for a closed channel
            raise CancelledError(f"the client is closed: {error}") from error

    async def _call(self, method: str, message: Any, timeout: float) -> Any:
        try:
            return await getattr(self._stub(), method)(message, timeout=timeout, metadata=self._metadata)
        except grpc.aio.UsageError as error:
            raise CancelledError(f"the client is closed: {error}") from error
        except grpc.RpcError as error:
            raise error_of_call(error) from error
        except asyncio.CancelledError as error:
            raise _meaning_of(error) from error

    async def close(self, patience: float) -> None:
        await self.finish_work(patience)
        if self._channel is not None:
            await self._channel.close()


class _AsyncResponses(GrpcResponses):
    def __init__(self, call: grpc.aio.StreamStreamCall) -> None:
        self._call = call

    async def _read(self) -> service_pb2.ModelStreamInferResponse | None:
        try:
            message = await self._call.read()
        except grpc.RpcError as error:
            raise error_of_call(error) from error
        except asyncio.CancelledError as error:
            raise _meaning_of(error) from error
        return None if message is grpc.aio.EOF else message

    async def close(self) -> None:
        self._call.cancel()


def _meaning_of(error: asyncio.CancelledError) -> BaseException:
    """grpc raises asyncio's error for a call that was cancelled as for a task that is being cancelled; tells the two apart."""
    task = asyncio.current_task()
    return error if task is not None and task.cancelling() else CancelledError("the call was cancelled")
