"""gRPC transport: what the blocking and the asynchronous one share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from tritonclient.grpc import service_pb2

from ananke_client.commands import Verb
from ananke_client.errors import AnankeError
from ananke_client.grpc_codec import GrpcCodec, decode_stream, encode_command, encode_generation
from ananke_client.request import GenerationRequest
from ananke_client.response import Outputs
from ananke_client.transport import GRACE, Question, Responses, T, Transport


class GrpcTransport(Transport):
    """Calls of Triton's service: ModelStreamInfer for a generation, all on one channel."""

    codec = GrpcCodec()

    async def open(self, request: GenerationRequest, model: str) -> Responses:
        return self._stream(encode_generation(request, model), request.timeout + GRACE)

    def abandon(self, attempt_id: str) -> None:
        pass  # to open a call waits for nothing

    async def command(self, model: str, verb: Verb, value: str | bool, timeout: float) -> Outputs:
        # A stream, as Triton refuses ModelInfer on decoupled models.
        responses = self._stream(encode_command(model, {verb: value}), timeout)
        try:
            outputs = await responses.receive()
            while outputs is not None and await responses.receive() is not None:
                pass
            return outputs or {}
        finally:
            await responses.close()

    async def ask(self, question: Question[T], timeout: float) -> T:
        return question.read(await self._call(question.target, question.content, timeout))

    @abstractmethod
    def _stream(self, message: service_pb2.ModelInferRequest, timeout: float) -> Responses:
        """Starts a call of ModelStreamInfer, its request side closed behind the message: Triton ends the call only then."""

    @abstractmethod
    async def _call(self, method: str, message: Any, timeout: float) -> Any:
        """The reply to a unary call."""


class GrpcResponses(Responses):
    """The responses of one call of ModelStreamInfer."""

    async def receive(self) -> Outputs | None:
        if (message := await self._read()) is None:
            return None
        if message.error_message:
            await self._finish()
        return decode_stream(message)

    async def _finish(self) -> None:
        """Reads the call to its end, which follows an error at once: Triton 2.51 leaks a request that is cancelled there."""
        try:
            while await self._read() is not None:
                pass
        except AnankeError:
            pass  # the error that came first is the one to tell

    @abstractmethod
    async def _read(self) -> service_pb2.ModelStreamInferResponse | None:
        """The next message, None at the end."""
