"""Exchange: all that the four clients do, but for the line that does the I/O: a ``Transport`` does it."""

from __future__ import annotations

import math
import uuid

from ananke_client.batch import BatchItem, Outcome
from ananke_client.call_group import CallGroup
from ananke_client.commands import PATIENCE, Commands
from ananke_client.config import GenerationConfig
from ananke_client.deadline import Deadline
from ananke_client.errors import AnankeError, DeadlineExceededError, RetryableError, UnauthenticatedError
from ananke_client.generation_call import GenerationCall
from ananke_client.health import HealthStatus
from ananke_client.lease import LeaseKeeper
from ananke_client.model_info import ModelMetadata, ModelStatistics
from ananke_client.report import ConstraintReport
from ananke_client.request import ConstraintLike, GenerationRequest, Prompt, check_request_id, check_timeout, constraint_text
from ananke_client.response import refusal
from ananke_client.result import GenerationResult
from ananke_client.retry import Attempts, RetryPolicy
from ananke_client.transport import Question, T, Transport

DEFAULT_TIMEOUT = 600.0
"""Seconds that a generation may take."""

PROBE_TIMEOUT = 5.0
"""Seconds that a question about metadata or statistics may take, and all those about health together."""


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
        self._pause = transport.pause()
        self._calls = CallGroup("the client")

    def start(
        self,
        prompt: Prompt,
        constraint: ConstraintLike | None,
        config: GenerationConfig | None,
        *,
        stream: bool,
        timeout: float | None,
        request_id: str | None,
        group: CallGroup | None = None,
    ) -> GenerationCall:
        """A generation that is ready to be sent; it ends with the client, and with a group."""
        timeout = self._timeout if timeout is None else timeout
        request = GenerationRequest.of(
            prompt, constraint, config, stream=stream, timeout=timeout, request_id=request_id, client_id=self._client_id
        )
        call = GenerationCall(self._transport, self._commands, self._leases, self._model, request, self._retry)
        self._calls.add(call)
        if group is not None:
            group.add(call)
        return call

    async def generate(
        self,
        prompt: Prompt,
        constraint: ConstraintLike | None,
        config: GenerationConfig | None,
        *,
        timeout: float | None,
        request_id: str | None,
        group: CallGroup | None = None,
    ) -> GenerationResult:
        """A whole generation."""
        call = self.start(prompt, constraint, config, stream=False, timeout=timeout, request_id=request_id, group=group)
        return await call.whole()

    async def outcome(self, item: BatchItem, timeout: float | None, group: CallGroup | None = None) -> Outcome:
        """What becomes of one item of a batch. Raises: never, but for an interruption."""
        try:
            return await self.generate(
                item.prompt, item.constraint, item.config, timeout=timeout, request_id=item.request_id, group=group
            )
        except Exception as error:
            return error

    async def end(self, group: CallGroup) -> None:
        """Ends a group's calls, here and on the server. Raises: never."""
        await self._commands.try_all("cancel", await group.leave())

    async def validate(self, constraint: ConstraintLike, timeout: float | None) -> ConstraintReport:
        """The server's report on a constraint."""
        try:
            seconds = check_timeout(self._timeout if timeout is None else timeout)
            parameters: dict[str, int | str] = {"client_id": self._client_id, "deadline_ms": math.ceil(seconds * 1000)}
            question = self._transport.codec.validation(self._validate_model, constraint_text(constraint), parameters)
            return await self._ask(question, seconds)
        except AnankeError as error:
            return refusal(error)

    async def cancel(self, request_id: str, timeout: float | None) -> bool:
        """Cancels the generations of a request id; whether there was one under way."""
        name = check_request_id(request_id)
        self._calls.check_open()
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
        """The server's state, asked once, with one deadline for all its questions."""
        codec, deadline = self._transport.codec, Deadline(PROBE_TIMEOUT)
        live = loaded = False
        models: dict[str, bool] = {}
        version = None
        try:
            self._calls.check_open()
            live = await self._holds(codec.server_live(), deadline)
            loaded = await self._holds(codec.server_ready(), deadline)
            for name in (self._model, self._validate_model):
                models[name] = await self._holds(codec.model_ready(name), deadline)
            version = await self._transport.ask(codec.server_version(), deadline.remaining())
            status = await self._commands.status(deadline.remaining()) if loaded else None
            ready = status is not None and status.ready and all(models.values())
            return HealthStatus(live=live, ready=ready, models=models, server_version=version, status=status)
        except Exception as error:
            return HealthStatus(live=live, models=models, server_version=version, error=str(error) or repr(error))

    async def close(self) -> None:
        """Ends every call in flight, here and on the server, and closes the connections. Raises: never."""
        deadline = Deadline(PATIENCE)
        names = await self._calls.leave() + await self._leases.close()
        self._pause.end()
        await self._commands.try_all("cancel", names)
        await self._transport.close(max(0.0, deadline.left()))

    async def _holds(self, question: Question[bool], deadline: Deadline) -> bool:
        try:
            return await self._transport.ask(question, deadline.remaining())
        except (RetryableError, DeadlineExceededError, UnauthenticatedError):
            raise
        except AnankeError:
            return False  # Triton's way to say no, or an unknown model

    async def _ask(self, question: Question[T], timeout: float) -> T:
        """The answer to a question that changes nothing, tried again where that may help."""
        attempts = Attempts(self._retry, check_timeout(timeout))
        while True:
            self._calls.check_open()
            try:
                return await self._transport.ask(question, attempts.remaining())
            except AnankeError as error:
                wait = attempts.wait_after(error)
            await self._pause.wait(wait)
