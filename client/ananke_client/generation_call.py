"""Generation calls: one generation over a transport, its failures tried again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ananke_client.commands import PATIENCE, Commands
from ananke_client.errors import (
    AnankeError,
    CancelledError,
    DeadlineExceededError,
    GenerationError,
    OverloadedError,
    RequestError,
    RetryableError,
)
from ananke_client.lease import LeaseKeeper
from ananke_client.request import GenerationRequest
from ananke_client.response import ResponseAssembler
from ananke_client.result import GenerationResult
from ananke_client.retry import Attempts, RetryPolicy
from ananke_client.transport import Responses, Transport

_ENDED = (RequestError, GenerationError, OverloadedError)
"""What the server says when it has ended a try; after any other error it may be at work on it."""

_log = logging.getLogger("ananke_client")


class GenerationCall:
    """One generation: its tries, their responses, and at the end its result."""

    def __init__(
        self,
        transport: Transport,
        commands: Commands,
        leases: LeaseKeeper,
        model: str,
        request: GenerationRequest,
        policy: RetryPolicy,
    ) -> None:
        self.attempt_id: str | None = None
        """The try that the server may be at work on."""
        self._transport = transport
        self._commands = commands
        self._leases = leases
        self._model = model
        self._request = request
        self._attempts = Attempts(policy, request.timeout)
        self._assembler = ResponseAssembler(request)
        self._pause = transport.pause()
        self._responses: Responses | None = None
        self._delivered = False
        self._closed: str | None = None
        self._told = False
        self.result: GenerationResult | None = None

    async def open(self) -> None:
        """Sends the request, if that was not done.

        Raises:
            CancelledError: the call was closed before.
        """
        if self._told:
            return
        with self._telling():
            while self._responses is None:
                self._check_open()
                try:
                    await self._send()
                except BaseException as error:
                    await self._recover(error)

    async def receive(self) -> str | None:
        """The next piece of text, none of them empty; None behind the result, or behind an error that was raised.

        Raises:
            CancelledError: the call was closed before its result had come.
        """
        if self._told:
            return None
        with self._telling():
            while self.result is None:
                self._check_open()
                try:
                    if self._responses is None:
                        await self._send()
                    if (delta := await self._next_delta()) is not None:
                        self._delivered = self._request.stream
                        return delta
                    self.result = self._assembler.result()
                    self.attempt_id = None
                    await self.close()
                except BaseException as error:
                    await self._recover(error)
        return None

    async def whole(self) -> GenerationResult:
        """The result, waited for.

        Raises:
            CancelledError: as ``receive``.
        """
        while await self.receive() is not None:
            pass
        assert self.result is not None
        return self.result

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Notes that an error was raised: it is raised once."""
        try:
            yield
        except BaseException:
            self._told = True
            raise

    def _check_open(self) -> None:
        if self._closed is not None and not self._assembler.complete:
            raise CancelledError(f"{self._closed} was closed")

    async def close(self) -> None:
        """Ends the call if it has not ended, here and on the server. Raises: never."""
        await self._commands.try_all("cancel", await self.leave("the call"))

    async def _close_beside(self) -> None:
        """Ends the call here at once, and on the server beside it."""
        if names := await self.leave("the call"):
            self._transport.spawn(lambda: self._commands.try_all("cancel", names))

    async def leave(self, closed: str) -> list[str]:
        """Ends the call on this side; returns the attempt id that the server may be at work on, if there is one. Raises: never.

        Args:
            closed: what was closed, the call or its client, for who waits for its responses.
        """
        self._closed = self._closed or closed
        self._pause.end()
        return await self._leave_attempt()

    def __del__(self) -> None:
        if self.attempt_id is not None:
            self._leases.drop(self.attempt_id, self._responses)

    async def _leave_attempt(self) -> list[str]:
        attempt_id, self.attempt_id = self.attempt_id, None
        if self._responses is not None:
            await self._responses.close()
        elif attempt_id is not None:
            self._transport.abandon(attempt_id)
        return [] if attempt_id is None else [attempt_id]

    async def _send(self) -> None:
        attempt = self._request.attempt(self._attempts.remaining())
        self.attempt_id = attempt.attempt_id
        self._leases.keep(self)
        self._responses = await self._transport.open(attempt, self._model)
        if self._closed is not None:
            await self.close()
            self._check_open()

    async def _next_delta(self) -> str | None:
        responses = self._responses
        assert responses is not None
        try:
            while (outputs := await responses.receive()) is not None:
                if delta := self._assembler.add(outputs):
                    return delta
        except (RetryableError, DeadlineExceededError, CancelledError):
            # A call that breaks, ends late or is closed behind the final response takes nothing away.
            if not self._assembler.complete:
                raise
        return None

    async def _recover(self, error: BaseException) -> None:
        """Makes ready for another try, or raises the error."""
        if isinstance(error, _ENDED):
            self.attempt_id = None
        if self._closed is not None and isinstance(error, AnankeError):
            raise CancelledError(f"{self._closed} was closed") from error
        if self._delivered or not isinstance(error, AnankeError):
            if isinstance(error, RetryableError):
                error.add_note("not tried again, since text was delivered")
            await self._end(error)
            raise error
        try:
            wait = self._attempts.wait_after(error)
            await self._commands.try_all("cancel", await self._leave_attempt(), patience=min(PATIENCE, self._attempts.left()))
            _log.info("request %s failed with %s; again in %.2f s", self._request.request_id, error.code, wait)
            await self._pause.wait(wait)
        except BaseException as end:
            await self._end(end)
            raise
        self._assembler = ResponseAssembler(self._request)
        self._responses = None

    async def _end(self, error: BaseException) -> None:
        """Closes the call; who has waited for the whole timeout, or whose task is cancelled, does not wait for the server too."""
        if isinstance(error, (DeadlineExceededError, asyncio.CancelledError)) or self._attempts.left() <= 0:
            await self._close_beside()
        else:
            await self.close()
