"""The relay's end in the models that call the engine: many calls at once over one connection."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

from ananke_client.errors import AnankeError, CancelledError, EngineUnavailableError, InternalError, from_wire
from ananke_server.engine.request import Emit, GenerateRequest, GenerateResult
from ananke_server.triton.relay import Abandon, Answer, Call, Failure, Piece, Unreadable, framed, messages


class LostEngineError(EngineUnavailableError):
    """The engine's process is not there, or has ended and with it what it knew of the request."""


class RelayClient:
    """Connects when it is first called, and again after a connection was lost; belongs to one event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers = itertools.count()
        self._under_way: dict[int, RelayedCall] = {}
        self._connecting = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def call(self, request: GenerateRequest, emit: Emit) -> RelayedCall:
        """Send a request, whose text ``emit`` gets, in pieces where it streams. Its end has to be awaited.

        Raises:
            LostEngineError: the engine's process cannot be reached.
        """
        writer = await self._connected()
        number = next(self._numbers)
        frame = framed(Call(number, request))
        call = self._under_way[number] = RelayedCall(number, emit, writer)
        call.result.add_done_callback(lambda _: self._under_way.pop(number))
        writer.write(frame)
        return call

    async def close(self) -> None:
        """Give up the connection; calls under way are cancelled."""
        self._end(CancelledError("the server is shutting down"))
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is None:
                try:
                    reader, self._writer = await asyncio.open_unix_connection(self._path)
                except OSError as fault:
                    raise LostEngineError(f"guided_vllm, where the engine is, cannot be reached: {fault.strerror}") from None
                self._reading = asyncio.create_task(self._read(reader, self._writer))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async for message in messages(reader, Piece | Answer | Failure):
                if call := self._under_way.get(message.number):
                    call.hear(message)
        finally:
            self._writer = None
            writer.close()
            self._end(LostEngineError("the engine's process has ended"))

    def _end(self, error: AnankeError) -> None:
        for call in self._under_way.values():
            call.fail(error)


class RelayedCall:
    """A call under way; belongs to the event loop."""

    def __init__(self, number: int, emit: Emit, writer: asyncio.StreamWriter) -> None:
        self.result: asyncio.Future[GenerateResult] = asyncio.get_running_loop().create_future()
        self._number = number
        self._emit = emit
        self._writer = writer

    async def end(self) -> GenerateResult:
        """Wait for the end. Where the awaiting task is cancelled, the generation ends.

        Raises:
            LostEngineError: the engine's process has ended.
            AnankeError: the request failed there.
        """
        try:
            return await self.result
        except asyncio.CancelledError:
            self._abandon()
            raise

    def hear(self, message: Piece | Answer | Failure | Unreadable) -> None:
        """Something has come from the engine's process."""
        if self.result.done():
            return  # whoever asked has gone
        if isinstance(message, Failure):
            self.fail(from_wire(message.error) or InternalError(message.error))
        elif isinstance(message, Unreadable):
            self._abandon()
            self.fail(InternalError(f"what the engine's process said cannot be read: {message.fault}"))
        else:
            self._emit(message.text)
            if isinstance(message, Answer):
                self.result.set_result(message.result)

    def fail(self, error: Exception) -> None:
        """End it with an error, where it has not ended."""
        if not self.result.done():
            self.result.set_exception(error)

    def _abandon(self) -> None:
        self._writer.write(framed(Abandon(self._number)))
