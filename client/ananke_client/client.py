"""Client: what the synchronous clients share; a transport adds how one call travels."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ananke_client.config import GenerationConfig
from ananke_client.errors import AnankeError
from ananke_client.health import HealthStatus
from ananke_client.report import ConstraintReport
from ananke_client.request import (
    ConstraintLike,
    GenerationRequest,
    Prompt,
    check_timeout,
    choice_constraint,
    constraint_text,
    grammar_constraint,
    json_schema_constraint,
    regex_constraint,
)
from ananke_client.response import ResponseAssembler, parse_report, refusal
from ananke_client.result import GenerationResult
from ananke_client.stream import GenerationStream, Responses

DEFAULT_TIMEOUT = 600.0
"""Seconds that a generation may take."""

HEALTH_TIMEOUT = 5.0
"""Seconds that one health probe may take."""


class InferenceClient(ABC):
    """A client of one server; threads may share it. Close it, or use it as a context manager."""

    def __init__(self, *, model_name: str, validate_model_name: str, timeout: float) -> None:
        self._model_name = model_name
        self._validate_model_name = validate_model_name
        self._timeout = check_timeout(timeout)

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
            timeout: seconds that the generation may take; None takes the client's.
            request_id: names the request in the server's logs; None mints one.

        Raises:
            RequestError: the request, or its constraint, has to change.
            GenerationError: no valid output came of it.
            RetryableError: the server is overloaded, down or out of reach.
            DeadlineExceededError: the timeout passed.
            CancelledError: the server cancelled the request.
            InternalError: the server failed.
        """
        with self._start(prompt, constraint, config, stream=False, timeout=timeout, request_id=request_id) as stream:
            for _ in stream:
                pass
            return stream.result

    def generate_stream(
        self,
        prompt: Prompt,
        constraint: ConstraintLike | None = None,
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationStream:
        """As ``generate``, but the text comes in deltas. The request is sent at once; errors are raised here or by iteration."""
        return self._start(prompt, constraint, config, stream=True, timeout=timeout, request_id=request_id)

    def generate_with_json_schema(
        self,
        prompt: Prompt,
        schema: Mapping[str, Any] | bool,
        config: GenerationConfig | None = None,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> GenerationResult:
        """As ``generate``; the output is a JSON value that ``schema`` admits, in ``parsed``."""
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
        """As ``generate``; the whole output matches ``pattern`` (Rust's regex syntax; a compiled pattern must have no flags)."""
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

    def validate(self, constraint: ConstraintLike) -> ConstraintReport:
        """The server's report on a constraint, accepted or not, without a generation.

        Raises:
            RetryableError: the server is overloaded, down or out of reach.
            DeadlineExceededError: the client's timeout passed.
            InternalError: the server failed.
        """
        try:
            return parse_report(self._validate(constraint_text(constraint)))
        except AnankeError as error:
            return refusal(error)

    def health_check(self) -> HealthStatus:
        """The server's state, within a few seconds. Raises: never; an unreachable server is not live, and ``error`` says why."""
        live = ready = False
        models: dict[str, bool] = {}
        try:
            live = self._is_live()
            ready = self._is_ready()
            for name in (self._model_name, self._validate_model_name):
                models[name] = self._is_model_ready(name)
            return HealthStatus(live=live, ready=ready, models=models, server_version=self._server_version())
        except Exception as error:
            return HealthStatus(live=live, ready=ready, models=models, error=str(error) or repr(error))

    @abstractmethod
    def close(self) -> None:
        """Closes the connections; calls in flight end with an error. Raises: never."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _start(
        self,
        prompt: Prompt,
        constraint: ConstraintLike | None,
        config: GenerationConfig | None,
        *,
        stream: bool,
        timeout: float | None,
        request_id: str | None,
    ) -> GenerationStream:
        timeout = self._timeout if timeout is None else timeout
        request = GenerationRequest.of(prompt, constraint, config, stream=stream, timeout=timeout, request_id=request_id)
        return GenerationStream(self._send(request), ResponseAssembler(request))

    @abstractmethod
    def _send(self, request: GenerationRequest) -> Responses:
        """Starts one call to the generation model."""

    @abstractmethod
    def _validate(self, constraint: str) -> str:
        """The validation model's report, as JSON text."""

    @abstractmethod
    def _is_live(self) -> bool: ...

    @abstractmethod
    def _is_ready(self) -> bool: ...

    @abstractmethod
    def _is_model_ready(self, name: str) -> bool: ...

    @abstractmethod
    def _server_version(self) -> str: ...
