"""The relay's end in the models that call the engine: many calls at once over one connection."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from pathlib import Path

from ananke_client.errors import EngineUnavailableError, InternalError, from_wire
from ananke_server.engine.request import Emit, GenerateRequest, GenerateResult
from ananke_server.triton.relay import Abandon, Answer, Call, Failure, Piece, framed, messages


class LostEngineError(EngineUnavailableError):
    """The engine's process is not there, so that it knows nothing of the request."""


class RelayClient:
    """Connects when it is first called, and again after a connection was lost; belongs to one event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers = itertools.count()
        self._under_way: dict[int, _UnderWay] = {}
        self._connecting = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def generate(self, request: GenerateRequest, emit: Emit) -> GenerateResult:
        """Hand all text of the request to ``emit``, in pieces where it streams. Where the awaiting task is cancelled, the generation ends.

        Raises:
            LostEngineError: the engine's process cannot be reached, or has ended.
            AnankeError: the request failed there.
        """
        writer = await self._connected()
        number = next(self._numbers)
        call = self._under_way[number] = _UnderWay(emit, asyncio.get_running_loop().create_future())
        try:
            writer.write(framed(Call(number, request)))
            return await call.result
        except asyncio.CancelledError:
            writer.write(framed(Abandon(number)))
            raise
        finally:
            del self._under_way[number]

    async def close(self) -> None:
        """Give up the connection; calls under way fail."""
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
            for call in self._under_way.values():
                call.fail(LostEngineError("the engine's process has ended"))


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A call whose caller waits for its end."""

    emit: Emit
    result: asyncio.Future[GenerateResult]

    def hear(self, message: Piece | Answer | Failure) -> None:
        if self.result.done():
            return  # whoever asked has gone
        if isinstance(message, Failure):
            self.fail(from_wire(message.error) or InternalError(message.error))
            return
        self.emit(message.text)
        if isinstance(message, Answer):
            self.result.set_result(message.result)

    def fail(self, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)
