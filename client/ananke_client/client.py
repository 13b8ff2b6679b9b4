"""Client: the methods of the synchronous clients; ``async_client`` has the same, to be awaited."""

from __future__ import annotations

import atexit
import os
import re
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from ananke_client.batch import DEFAULT_CONCURRENCY, Batch, BatchItem, Outcome, Progress
from ananke_client.call_group import CallGroup
from ananke_client.config import GenerationConfig
from ananke_client.exchange import Exchange
from ananke_client.health import HealthStatus
from ananke_client.model_info import ModelMetadata, ModelStatistics
from ananke_client.report import ConstraintReport
from ananke_client.request import (
    ConstraintLike,
    Prompt,
    choice_constraint,
    grammar_constraint,
    json_schema_constraint,
    regex_constraint,
)
from ananke_client.result import GenerationResult
from ananke_client.schemas import SchemaLike, SchemaType
from ananke_client.stand_in import run, taken
from ananke_client.stream import GenerationStream

T = TypeVar("T")

_open: weakref.WeakSet[InferenceClient] = weakref.WeakSet()


class InferenceClient:
    """A client of one server; threads may share it. Close it, or use it as a context manager."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        _open.add(self)

    def generate(
        self,
        prompt: Prompt,
        constraint: ConstraintLike | None = None,
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationResult:
        """Generates a text within a constraint and waits for its end.

        Args:
            prompt: a text, or chat messages with ``role`` and ``content``.
            constraint: what the output has to satisfy; a mapping or a JSON text is sent as it is.
            config: sampling parameters; None takes the server's defaults.
            timeout: seconds that it may take, retries included; None takes the client's.
            request_id: names the request in the server's logs, and for ``cancel``; None mints one.

        Raises:
            RequestError: the request, or its constraint, has to change.
            GenerationError: no valid output came of it.
            RetryableError: the server is overloaded, down or out of reach, and stayed so over all retries.
            DeadlineExceededError: the timeout passed.
            CancelledError: the server cancelled the request, or the client was closed.
            InternalError: the server failed.
        """
        call = self._exchange.start(prompt, constraint, config, stream=False, timeout=timeout, request_id=request_id)
        return run(call.whole(), call.close)

    def generate_stream(
        self,
        prompt: Prompt,
        constraint: ConstraintLike | None = None,
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationStream:
        """As ``generate``, but the text comes in deltas. The request is sent at once; errors are raised here or by iteration.

        Once a delta was handed out nothing is tried again, so no token comes twice.
        """
        call = self._exchange.start(prompt, constraint, config, stream=True, timeout=timeout, request_id=request_id)
        run(call.open(), call.close)
        return GenerationStream(call)

    @overload
    def generate_with_json_schema(
        self,
        prompt: Prompt,
        schema: Mapping[str, Any] | bool,
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationResult[Any]: ...

    @overload
    def generate_with_json_schema(
        self,
        prompt: Prompt,
        schema: SchemaType[T],
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationResult[T]: ...

    def generate_with_json_schema(
        self,
        prompt: Prompt,
        schema: SchemaLike,
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationResult[Any]:
        """As ``generate``; the output is a JSON value that ``schema`` admits, in ``parsed``: an instance, where it is a type."""
        return self.generate(prompt, json_schema_constraint(schema), config, timeout=timeout, request_id=request_id)

    def generate_with_regex(
        self,
        prompt: Prompt,
        pattern: str | re.Pattern[str],
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationResult:
        """As ``generate``; the whole output matches ``pattern`` (Rust's regex syntax; a compiled pattern's flags i, m, s, x count)."""
        return self.generate(prompt, regex_constraint(pattern), config, timeout=timeout, request_id=request_id)

    def generate_with_grammar(
        self,
        prompt: Prompt,
        grammar: str,
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationResult:
        """As ``generate``; the output derives from ``start`` of a Lark grammar."""
        return self.generate(prompt, grammar_constraint(grammar), config, timeout=timeout, request_id=request_id)

    def generate_with_choice(
        self,
        prompt: Prompt,
        choices: Sequence[str],
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationResult:
        """As ``generate``; the output is one of ``choices``, to the letter."""
        return self.generate(prompt, choice_constraint(choices), config, timeout=timeout, request_id=request_id)

    def generate_batch(
        self,
        prompts: Iterable[Prompt | BatchItem],
        constraint: ConstraintLike | None = None,
        config: GenerationConfig | None = None,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        timeout: float | None = None,
        progress: Progress | None = None,
        tqdm: bool = False,
    ) -> list[Outcome]:
        """Generates for many prompts, some at once.

        Args:
            prompts: prompts, or ``BatchItem`` where one has a constraint or a config of its own.
            constraint: of every item that has none.
            config: of every item that has none.
            concurrency: how many run at once, at most.
            timeout: seconds that each item may take, counted from when it starts; None takes the client's.
            progress: called with the numbers of items done and of all, as each is done.
            tqdm: show a bar (the extra ``progress``).

        Returns:
            For each prompt, in order, its result or the exception that ``generate`` raised; one failure leaves the rest alone.

        Raises:
            InvalidRequestError: ``prompts`` is one text, or ``concurrency`` no positive whole number.
            ModuleNotFoundError: ``tqdm`` is not installed.
            BaseException: an interruption, or what ``progress`` raised; what is under way is cancelled, on the server too.
        """
        with Batch(prompts, constraint, config, concurrency=concurrency, progress=progress, tqdm=tqdm) as batch:
            calls, done = CallGroup("the batch"), SimpleQueue[tuple[int, Outcome] | BaseException]()

            def work() -> None:
                try:
                    for index, item in batch:
                        done.put((index, run(self._exchange.outcome(item, timeout, calls))))
                except BaseException as error:
                    done.put(error)

            threads = [threading.Thread(target=work, name="ananke-batch", daemon=True) for _ in range(batch.workers)]
            try:
                for thread in threads:
                    thread.start()
                for _ in range(len(batch)):
                    if isinstance(outcome := taken(done), BaseException):
                        raise outcome
                    batch.record(*outcome)
            except BaseException:
                run(self._exchange.end(calls))
                raise
            for thread in threads:
                thread.join()
            return batch.outcomes

    def validate(self, constraint: ConstraintLike, *, timeout: float | None = None) -> ConstraintReport:
        """The server's report on a constraint, accepted or not, without a generation.

        Raises:
            RetryableError: the server is overloaded, down or out of reach, and stayed so over all retries.
            DeadlineExceededError: the timeout passed.
            InternalError: the server failed.
        """
        return run(self._exchange.validate(constraint, timeout))

    def cancel(self, request_id: str, *, timeout: float | None = None) -> bool:
        """Cancels the generations of this ``request_id``, whichever client sent them; one still on its way is cancelled when it comes.

        Returns:
            Whether one was under way. Its caller gets a ``CancelledError``.

        Raises:
            InvalidRequestError: the id is empty, or has more than 256 characters.
            RetryableError, DeadlineExceededError: as ``validate``, but tried once; the timeout is 5 s by default.
        """
        return run(self._exchange.cancel(request_id, timeout))

    def health_check(self) -> HealthStatus:
        """The server's state, within 5 s. Raises: never; an unreachable server is not live, and ``error`` says why."""
        return run(self._exchange.health_check())

    def model_metadata(self, model_name: str | None = None, *, timeout: float | None = None) -> ModelMetadata:
        """A model's versions, inputs and outputs, from Triton itself; None asks for the model that generates.

        Raises:
            InvalidRequestError: there is no such model.
            RetryableError, DeadlineExceededError: as ``validate``; the timeout is 5 s by default.
        """
        return run(self._exchange.model_metadata(model_name, timeout))

    def model_statistics(self, model_name: str | None = None, *, timeout: float | None = None) -> list[ModelStatistics]:
        """Triton's counters of a model, an entry for each of its versions; raises as ``model_metadata``."""
        return run(self._exchange.model_statistics(model_name, timeout))

    def close(self) -> None:
        """Ends what is in flight, whose threads get a ``CancelledError``, on the server too, and closes the connections. Raises: never."""
        _open.discard(self)
        run(self._exchange.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@atexit.register
def _close_those_open() -> None:
    """Ends what a program leaves under way at its end. Later no thread runs any more, and nothing of grpc ends."""
    for client in list(_open):
        client.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open.clear)
