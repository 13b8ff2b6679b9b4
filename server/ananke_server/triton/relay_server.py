"""The relay's end in ``guided_vllm``: requests of other models' processes, answered by the engine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from ananke_client.errors import to_wire
from ananke_server.engine.request import Delta, GenerateRequest, GenerateResult, joined
from ananke_server.triton.codec import known_error
from ananke_server.triton.relay import Abandon, Answer, Call, Failure, framed, received


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

    async def start(self) -> None:
        """Return once calls are taken.

        Raises:
            OSError: the socket cannot be made.
        """
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._path))
        # Nobody can connect before it listens.
        self._path.chmod(0o600)
        self._server = await asyncio.start_unix_server(self._attend, sock=listener)

    async def close(self) -> None:
        """Take no more calls; those under way go on."""
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls: dict[int, RelayedResponses] = {}
        try:
            while (message := await received(reader, Call | Abandon)) is not None:
                if isinstance(message, Call):
                    calls[message.number] = RelayedResponses(message.number, writer)
                    task = asyncio.create_task(self._take(message, calls))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                elif message.number in calls:
                    calls[message.number].abandon()
        finally:
            for responses in calls.values():
                responses.abandon()
            writer.close()

    async def _take(self, call: Call, calls: dict[int, RelayedResponses]) -> None:
        try:
            await self._answer(call.request, calls[call.number])
        finally:
            del calls[call.number]


class RelayedResponses:
    """One call's answer, with the methods of ``Responses``; all but ``is_cancelled`` belong to the event loop."""

    def __init__(self, number: int, writer: asyncio.StreamWriter) -> None:
        self.tokens = 0
        """Tokens of the deltas so far."""
        self._number = number
        self._writer = writer
        self._deltas: list[Delta] = []
        self._abandoned = False

    def add(self, delta: Delta) -> None:
        """Text was generated: it leaves with the result."""
        self.tokens += delta.tokens
        self._deltas.append(delta)

    def finish(self, result: GenerateResult) -> None:
        """The request has ended well."""
        try:
            answer = framed(Answer(self._number, joined(self._deltas), result))
        except Exception as error:  # every call gets its answer
            self.fail(error)
        else:
            self._writer.write(answer)

    def fail(self, error: Exception) -> None:
        """The request has failed."""
        self._writer.write(framed(Failure(self._number, to_wire(known_error(error)))))

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        self._abandoned = True

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._abandoned
