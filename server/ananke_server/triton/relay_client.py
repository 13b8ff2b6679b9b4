"""The relay's end in ``generate_once``: calls to the engine, many at once over one connection."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

from ananke_client.errors import EngineUnavailableError, InternalError, from_wire
from ananke_server.engine.request import Delta, GenerateRequest, GenerateResult
from ananke_server.triton.relay import Abandon, Answer, Call, Failure, framed, received


class RelayClient:
    """Connects when it is first called, and again after a connection was lost; belongs to one event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._connecting = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def generate(self, request: GenerateRequest) -> tuple[Delta, GenerateResult]:
        """All text of the request, and its result. Where the awaiting task is cancelled, the generation ends.

        Raises:
            AnankeError: the request failed, or the engine's process cannot be reached.
        """
        writer = await self._connected()
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            writer.write(framed(Call(number, request)))
            answer = await self._waiting[number]
        except asyncio.CancelledError:
            writer.write(framed(Abandon(number)))
            raise
        finally:
            del self._waiting[number]
        return answer.text, answer.result

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
                    raise EngineUnavailableError(f"guided_vllm, where the engine is, cannot be reached: {fault.strerror}") from None
                self._reading = asyncio.create_task(self._read(reader, self._writer))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (message := await received(reader, Answer | Failure)) is not None:
                self._settle(message)
        finally:
            self._writer = None
            writer.close()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(EngineUnavailableError("the engine's process has ended"))

    def _settle(self, message: Answer | Failure) -> None:
        future = self._waiting.get(message.number)
        if future is None or future.done():
            return  # whoever asked has gone
        if isinstance(message, Answer):
            future.set_result(message)
        else:
            future.set_exception(from_wire(message.error) or InternalError(message.error))
