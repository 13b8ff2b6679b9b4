"""Asynchronous client: the methods of ``client``, to be awaited."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from ananke_client.batch import DEFAULT_CONCURRENCY, Batch, BatchItem, Outcome, Progress
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
from ananke_client.stream import AsyncGenerationStream

T = TypeVar("T")


class AsyncInferenceClient:
    """A client of one server, for the tasks of one event loop. Close it, or use it as an asynchronous context manager."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def generate(
        self,
        prompt: Prompt,
        constraint: ConstraintLike | None = None,
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationResult:
        """Generates a text within a constraint and waits for its end; arguments and errors are ``InferenceClient.generate``'s.

        Cancelling the task cancels the generation, on the server too.
        """
        return await self._exchange.generate(prompt, constraint, config, timeout=timeout, request_id=request_id)

    def generate_stream(
        self,
        prompt: Prompt,
        constraint: ConstraintLike | None = None,
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerationStream:
        """As ``generate``, but the text comes in deltas, by ``async for``. The request is sent on entering the stream, or by iteration.

        Once a delta was handed out nothing is tried again, so no token comes twice.
        """
        call = self._exchange.start(prompt, constraint, config, stream=True, timeout=timeout, request_id=request_id)
        return AsyncGenerationStream(call)

    @overload
    async def generate_with_json_schema(
        self,
        prompt: Prompt,
        schema: Mapping[str, Any] | bool,
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationResult[Any]: ...

    @overload
    async def generate_with_json_schema(
        self,
        prompt: Prompt,
        schema: SchemaType[T],
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationResult[T]: ...

    async def generate_with_json_schema(
        self,
        prompt: Prompt,
        schema: SchemaLike,
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationResult[Any]:
        """As ``generate``; the output is a JSON value that ``schema`` admits, in ``parsed``: an instance, where it is a type."""
        return await self.generate(prompt, json_schema_constraint(schema), config, timeout=timeout, request_id=request_id)

    async def generate_with_regex(
        self,
        prompt: Prompt,
        pattern: str | re.Pattern[str],
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationResult:
        """As ``generate``; the whole output matches ``pattern`` (Rust's regex syntax; a compiled pattern's flags i, m, s, x count)."""
        return await self.generate(prompt, regex_constraint(pattern), config, timeout=timeout, request_id=request_id)

    async def generate_with_grammar(
        self,
        prompt: Prompt,
        grammar: str,
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationResult:
        """As ``generate``; the output derives from ``start`` of a Lark grammar."""
        return await self.generate(prompt, grammar_constraint(grammar), config, timeout=timeout, request_id=request_id)

    async def generate_with_choice(
        self,
        prompt: Prompt,
        choices: Sequence[str],
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationResult:
        """As ``generate``; the output is one of ``choices``, to the letter."""
        return await self.generate(prompt, choice_constraint(choices), config, timeout=timeout, request_id=request_id)

    async def generate_batch(
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
        """Generates for many prompts, some at once: each one's result or exception, in order. All as ``InferenceClient.generate_batch``."""
        with Batch(prompts, constraint, config, concurrency=concurrency, progress=progress, tqdm=tqdm) as batch:

            async def work() -> None:
                for index, item in batch:
                    batch.record(index, await self._exchange.outcome(item, timeout))

            workers = [asyncio.create_task(work()) for _ in range(batch.workers)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
            return batch.outcomes

    async def validate(self, constraint: ConstraintLike, *, timeout: float | None = None) -> ConstraintReport:
        """The server's report on a constraint, accepted or not, without a generation; errors as ``InferenceClient.validate``."""
        return await self._exchange.validate(constraint, timeout)

    async def cancel(self, request_id: str, *, timeout: float | None = None) -> bool:
        """Cancels the generations whose ``request_id`` this is; returns whether one was under way. All as ``InferenceClient.cancel``."""
        return await self._exchange.cancel(request_id, timeout)

    async def health_check(self) -> HealthStatus:
        """The server's state, within 5 s. Raises: never; an unreachable server is not live, and ``error`` says why."""
        return await self._exchange.health_check()

    async def model_metadata(self, model_name: str | None = None, *, timeout: float | None = None) -> ModelMetadata:
        """A model's versions, inputs and outputs, from Triton itself; None asks for the model that generates."""
        return await self._exchange.model_metadata(model_name, timeout)

    async def model_statistics(self, model_name: str | None = None, *, timeout: float | None = None) -> list[ModelStatistics]:
        """Triton's counters of a model, an entry for each of its versions; raises as ``model_metadata``."""
        return await self._exchange.model_statistics(model_name, timeout)

    async def close(self) -> None:
        """Ends what is in flight, whose tasks get a ``CancelledError``, on the server too, and closes the connections. Raises: never."""
        await self._exchange.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
