"""The relay's end in ``guided_vllm``: requests of other models' processes, answered by the engine."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ananke_client.errors import EngineUnavailableError, InternalError, to_wire
from ananke_server.engine.request import Delta, GenerateRequest, GenerateResult, joined
from ananke_server.triton.codec import known_error
from ananke_server.triton.relay import Abandon, Answer, Call, Failure, Message, Piece, Unreadable, framed, messages

logger = logging.getLogger(__name__)


class RelayServer:
    """Takes calls on any number of connections; belongs to one event loop.

    Args:
        path: the socket's place; whatever lies there is replaced.
        answer: generates, and ends the responses that it is given.
    """

    def __init__(self, path: Path, answer: Callable[[GenerateRequest, RelayedResponses], Coroutine[Any, Any, None]]) -> None:
        self._path = path
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.StreamWriter] = set()
        self._refuses = False

    async def start(self) -> None:
        """Return once calls are taken.

        Raises:
            OSError: the socket cannot be made.
        """
        self._refuses = False
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._path))
        # Nobody can connect before it listens.
        self._path.chmod(0o600)
        self._server = await asyncio.start_unix_server(self._attend, sock=listener)

    def refuse(self) -> None:
        """Take no more calls; those under way go on."""
        self._refuses = True
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def close(self) -> None:
        """End all connections, and with them the calls under way."""
        self.refuse()
        for writer in self._connections:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._connections), return_exceptions=True)

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls: dict[int, RelayedResponses] = {}
        outbox = _Outbox(writer)
        self._connections.add(writer)
        try:
            async for message in messages(reader, Call | Abandon):
                if isinstance(message, Call):
                    self._begin(message, RelayedResponses(message.number, outbox, stream=message.request.stream), calls)
                elif isinstance(message, Unreadable):
                    error = InternalError(f"the call cannot be read: {message.fault}")
                    outbox.put(Failure(message.number, to_wire(error)))
                elif message.number in calls:
                    calls[message.number].abandon()
        finally:
            self._connections.discard(writer)
            if calls and not self._refuses:
                logger.warning("a relay's connection has ended, and with it %d requests that it had under way", len(calls))
            for responses in calls.values():
                responses.abandon()
            writer.close()

    def _begin(self, call: Call, responses: RelayedResponses, calls: dict[int, RelayedResponses]) -> None:
        if self._refuses:
            responses.fail(EngineUnavailableError("the server is shutting down"))
            return
        calls[call.number] = responses
        task = asyncio.create_task(self._take(call, calls))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, call: Call, calls: dict[int, RelayedResponses]) -> None:
        try:
            await self._answer(call.request, calls[call.number])
        finally:
            del calls[call.number]


class RelayedResponses:
    """One call's responses, with the methods of ``Responses`` that generating needs; they belong to the event loop."""

    def __init__(self, number: int, outbox: _Outbox, *, stream: bool) -> None:
        self.tokens = 0
        """Tokens of the deltas so far."""
        self._number = number
        self._outbox = outbox
        self._stream = stream
        self._waiting: list[Delta] = []
        self._abandoned = False
        self._cancel: Callable[[], object] | None = None

    def add(self, delta: Delta) -> None:
        """Text was generated: it leaves at once where the call streams, else with the result."""
        self.tokens += delta.tokens
        self._waiting.append(delta)
        if self._stream and delta.text:
            self._outbox.put(Piece(self._number, self._taken()))

    def finish(self, result: GenerateResult) -> None:
        """The request has ended well."""
        try:
            self._outbox.put(Answer(self._number, self._taken(), result))
        except Exception as error:  # every call gets its answer
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """The request has failed."""
        self._outbox.put(Failure(self._number, to_wire(known_error(error))))

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        self._abandoned = True
        if self._cancel is not None:
            self._cancel()

    @contextmanager
    def over(self, cancel: Callable[[], object]) -> Iterator[None]:
        """Within the ``with`` block ``cancel`` is called as soon as nobody waits for the answer any more."""
        if self._abandoned:
            cancel()
        self._cancel = cancel
        try:
            yield
        finally:
            self._cancel = None

    def _taken(self) -> Delta:
        waiting, self._waiting = self._waiting, []
        return joined(waiting)


class _Outbox:
    """What leaves over one connection: together, once the event loop has come to the end of its turn.

    A step of the engine brings a piece for each of its streams in one turn.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._frames: list[bytes] = []

    def put(self, message: Message) -> None:
        """Let it leave after those before it.

        Raises:
            TypeError: something in it cannot travel.
        """
        self._frames.append(framed(message))
        if len(self._frames) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        frames, self._frames = self._frames, []
        self._writer.write(b"".join(frames))
