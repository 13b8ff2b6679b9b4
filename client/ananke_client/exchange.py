"""Exchange: all that the four clients do, but for the line that does the I/O.

Everything here is ``async def``, over a ``Transport``. The asynchronous clients await it. A synchronous client's transport blocks
where another would suspend, so its coroutines run from start to end in one step, which ``run`` takes.
"""

from __future__ import annotations

import logging
import threading
import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ananke_client.batch import BatchItem, Outcome
from ananke_client.commands import Commands, Verb
from ananke_client.config import GenerationConfig
from ananke_client.errors import (
    AnankeError,
    CancelledError,
    DeadlineExceededError,
    EngineUnavailableError,
    GenerationError,
    OverloadedError,
    RequestError,
    RetryableError,
)
from ananke_client.health import HealthStatus
from ananke_client.lease import LeaseKeeper
from ananke_client.model_info import ModelMetadata, ModelStatistics
from ananke_client.report import ConstraintReport
from ananke_client.request import ConstraintLike, GenerationRequest, Prompt, check_request_id, check_timeout, constraint_text
from ananke_client.response import Outputs, ResponseAssembler, parse_report, refusal
from ananke_client.result import GenerationResult
from ananke_client.retry import Attempts, RetryPolicy

DEFAULT_TIMEOUT = 600.0
"""Seconds that a generation may take."""

PROBE_TIMEOUT = 5.0
"""Seconds that one question about health, metadata or statistics may take."""

GRACE = 2.0
"""Seconds that a client waits beyond a generation's timeout, so that the server's own error comes through."""

_ENDED = (RequestError, GenerationError, OverloadedError)
"""What the server says when it has ended a try; after any other error it may be at work on it."""

T = TypeVar("T")

_log = logging.getLogger("ananke_client")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The value of a coroutine over a transport that blocks."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    coroutine.close()
    raise RuntimeError("a blocking transport suspended")


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """One question with one answer: what goes where, and how the reply reads."""

    target: str
    """gRPC: a method of Triton's service; HTTP: a path."""
    content: Any
    """gRPC: the message; HTTP: the body, as JSON, or None for a GET."""
    read: Callable[[Any], T]
    """gRPC: of the reply's message; HTTP: of the reply's text. Raises ``InternalError`` for a reply that says something else."""


class Codec(Protocol):
    """Triton's questions as a transport writes them."""

    def validation(self, model: str, constraint: str) -> Question[str]: ...

    def server_live(self) -> Question[bool]: ...

    def server_ready(self) -> Question[bool]: ...

    def server_version(self) -> Question[str]: ...

    def model_ready(self, model: str) -> Question[bool]: ...

    def model_metadata(self, model: str) -> Question[ModelMetadata]: ...

    def model_statistics(self, model: str) -> Question[list[ModelStatistics]]: ...


class Responses(ABC):
    """The responses of one call in flight. Raises: AnankeError alone."""

    @abstractmethod
    async def receive(self) -> Outputs | None:
        """The next response, None at the end."""

    @abstractmethod
    async def close(self) -> None:
        """Ends the call, wherever it stands; does nothing the second time. Raises: never."""


class Transport(ABC):
    """What carries calls. Raises: AnankeError alone."""

    codec: Codec

    @abstractmethod
    async def open(self, request: GenerationRequest, model: str) -> Responses:
        """Starts one generation, which ends ``GRACE`` seconds after the request's timeout at the latest."""

    @abstractmethod
    async def ask(self, question: Question[T], timeout: float) -> T:
        """The answer to a question, within ``timeout`` seconds."""

    @abstractmethod
    async def command(self, model: str, verb: Verb, value: str | bool, timeout: float) -> Outputs:
        """The answer to a command about generations under way or the engine, within ``timeout`` seconds."""

    @abstractmethod
    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Starts work beside the calls, which does not keep the process alive."""

    @abstractmethod
    async def pause(self, seconds: float) -> None:
        """Waits."""

    @abstractmethod
    async def close(self) -> None:
        """Closes the connections."""


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
        self._responses: Responses | None = None
        self._delivered = False
        self._closed = False
        self.result: GenerationResult | None = None

    async def open(self) -> None:
        """Sends the request, if that was not done."""
        while self._responses is None and not self._closed:
            try:
                await self._send()
            except BaseException as error:
                await self._recover(error)

    async def receive(self) -> str | None:
        """The next piece of text, none of them empty; None at the end, and from then on."""
        while not self._closed:
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

    async def close(self) -> None:
        """Ends the call if it has not ended, here and on the server. Raises: never."""
        await self._commands.try_all("cancel", await self.leave())

    async def _close_beside(self) -> None:
        """Ends the call here at once, and on the server beside it: who has waited for the whole timeout waits no more."""
        if names := await self.leave():
            self._transport.spawn(lambda: self._commands.try_all("cancel", names))

    async def leave(self) -> list[str]:
        """Ends the call on this side; returns the attempt id that the server may be at work on, if there is one. Raises: never."""
        self._closed = True
        return await self._leave_attempt()

    def __del__(self) -> None:
        if self.attempt_id is not None:
            self._leases.drop(self.attempt_id)

    async def _leave_attempt(self) -> list[str]:
        attempt_id, self.attempt_id = self.attempt_id, None
        if self._responses is not None:
            await self._responses.close()
        return [] if attempt_id is None else [attempt_id]

    async def _send(self) -> None:
        attempt = self._request.attempt(self._attempts.remaining())
        self.attempt_id = attempt.attempt_id
        if attempt.stream:
            self._leases.keep(self)
        self._responses = await self._transport.open(attempt, self._model)
        if self._closed:
            await self.close()
            raise CancelledError("the call was closed")

    async def _next_delta(self) -> str | None:
        responses = self._responses
        assert responses is not None
        try:
            while (outputs := await responses.receive()) is not None:
                if delta := self._assembler.add(outputs):
                    return delta
        except RetryableError:
            # A connection that breaks behind the final response takes nothing away.
            if not self._assembler.complete:
                raise
        return None

    async def _recover(self, error: BaseException) -> None:
        """Makes ready for another try, or raises the error."""
        if isinstance(error, _ENDED):
            self.attempt_id = None
        if self._closed and isinstance(error, AnankeError):
            raise CancelledError("the call was closed") from error
        if isinstance(error, DeadlineExceededError):
            await self._close_beside()
        if self._delivered or not isinstance(error, AnankeError):
            if isinstance(error, RetryableError):
                error.add_note("not tried again, since text was delivered")
            await self.close()
            raise error
        try:
            wait = self._attempts.wait_after(error)
            await self._commands.try_all("cancel", await self._leave_attempt())
            _log.info("request %s failed with %s; again in %.2f s", self._request.request_id, error.code, wait)
            await self._transport.pause(wait)
        except BaseException:
            await self.close()
            raise
        self._assembler = ResponseAssembler(self._request)
        self._responses = None


class Exchange:
    """A client's side of one server: requests made, responses read, failures tried again.

    Raises:
        InvalidRequestError: the timeout is not finite and positive.
    """

    def __init__(
        self, transport: Transport, *, model: str, validate_model: str, engine_model: str, timeout: float, retry: RetryPolicy | None
    ) -> None:
        self._transport = transport
        self._commands = Commands(transport, engine_model)
        self._leases = LeaseKeeper(transport, self._commands)
        self._model = model
        self._validate_model = validate_model
        self._timeout = check_timeout(timeout)
        self._retry = retry or RetryPolicy()
        self._client_id = uuid.uuid4().hex
        self._calls: weakref.WeakSet[GenerationCall] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._closed = False

    def start(
        self,
        prompt: Prompt,
        constraint: ConstraintLike | None,
        config: GenerationConfig | None,
        *,
        stream: bool,
        timeout: float | None,
        request_id: str | None,
    ) -> GenerationCall:
        """A generation that is ready to be sent."""
        timeout = self._timeout if timeout is None else timeout
        request = GenerationRequest.of(
            prompt, constraint, config, stream=stream, timeout=timeout, request_id=request_id, client_id=self._client_id
        )
        call = GenerationCall(self._transport, self._commands, self._leases, self._model, request, self._retry)
        with self._lock:
            self._check_open()
            self._calls.add(call)
        return call

    async def generate(
        self,
        prompt: Prompt,
        constraint: ConstraintLike | None,
        config: GenerationConfig | None,
        *,
        timeout: float | None,
        request_id: str | None,
    ) -> GenerationResult:
        """A whole generation."""
        call = self.start(prompt, constraint, config, stream=False, timeout=timeout, request_id=request_id)
        while await call.receive() is not None:
            pass
        if call.result is None:
            raise CancelledError("the client was closed")
        return call.result

    async def outcome(self, item: BatchItem, timeout: float | None) -> Outcome:
        """What becomes of one item of a batch. Raises: never, but for an interruption."""
        try:
            return await self.generate(item.prompt, item.constraint, item.config, timeout=timeout, request_id=item.request_id)
        except Exception as error:
            return error

    async def validate(self, constraint: ConstraintLike, timeout: float | None) -> ConstraintReport:
        """The server's report on a constraint."""
        try:
            question = self._transport.codec.validation(self._validate_model, constraint_text(constraint))
            return parse_report(await self._ask(question, self._timeout if timeout is None else timeout))
        except AnankeError as error:
            return refusal(error)

    async def cancel(self, request_id: str, timeout: float | None) -> bool:
        """Cancels the generations of a request id; whether there was one under way."""
        name = check_request_id(request_id)
        self._check_open()
        return await self._commands.give("cancel", [name], check_timeout(PROBE_TIMEOUT if timeout is None else timeout))

    async def model_metadata(self, model: str | None, timeout: float | None) -> ModelMetadata:
        """What a model is; by default the one that generates."""
        question = self._transport.codec.model_metadata(model or self._model)
        return await self._ask(question, PROBE_TIMEOUT if timeout is None else timeout)

    async def model_statistics(self, model: str | None, timeout: float | None) -> list[ModelStatistics]:
        """What a model has done; by default the one that generates."""
        question = self._transport.codec.model_statistics(model or self._model)
        return await self._ask(question, PROBE_TIMEOUT if timeout is None else timeout)

    async def health_check(self) -> HealthStatus:
        """The server's state, asked once."""
        codec = self._transport.codec
        live = loaded = False
        models: dict[str, bool] = {}
        version = None
        try:
            self._check_open()
            live = await self._holds(codec.server_live())
            loaded = await self._holds(codec.server_ready())
            for name in (self._model, self._validate_model):
                models[name] = await self._holds(codec.model_ready(name))
            version = await self._transport.ask(codec.server_version(), PROBE_TIMEOUT)
            status = await self._commands.status(PROBE_TIMEOUT) if loaded else None
            ready = status is not None and status.ready and all(models.values())
            return HealthStatus(live=live, ready=ready, models=models, server_version=version, status=status)
        except Exception as error:
            return HealthStatus(live=live, models=models, server_version=version, error=str(error) or repr(error))

    async def close(self) -> None:
        """Ends every call in flight, here and on the server, and closes the connections."""
        with self._lock:
            self._closed = True
            calls = list(self._calls)
        names = [name for call in calls for name in await call.leave()]
        await self._commands.try_all("cancel", names + self._leases.take_dropped())
        await self._transport.close()

    async def _holds(self, question: Question[bool]) -> bool:
        try:
            return await self._transport.ask(question, PROBE_TIMEOUT)
        except (EngineUnavailableError, DeadlineExceededError):
            raise
        except AnankeError:
            return False  # Triton's way to say no, or an unknown model

    async def _ask(self, question: Question[T], timeout: float) -> T:
        """The answer to a question that changes nothing, tried again where that may help."""
        attempts = Attempts(self._retry, check_timeout(timeout))
        while True:
            self._check_open()
            try:
                return await self._transport.ask(question, attempts.remaining())
            except AnankeError as error:
                wait = attempts.wait_after(error)
            await self._transport.pause(wait)

    def _check_open(self) -> None:
        if self._closed:
            raise CancelledError("the client is closed")
