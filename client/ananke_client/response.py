"""Responses: the server's output tensors, assembled into a result, whatever the transport."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ananke_client.errors import AnankeError, EngineUnavailableError, ErrorCode, InternalError, RequestError, error_of
from ananke_client.provenance import Envelope, EnvelopeError, NotCanonicalError
from ananke_client.report import ConstraintReport, Diagnostic
from ananke_client.request import GenerationRequest
from ananke_client.result import GenerationResult, Usage

Scalar = str | int | float | bool
Outputs = Mapping[str, Scalar]
"""The value of each output tensor of one response; absent and empty tensors are left out."""


class ResponseAssembler:
    """Collects the responses of one request."""

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._deltas: list[str] = []
        self._output_tokens = 0
        self._final: Outputs | None = None

    def add(self, outputs: Outputs) -> str:
        """Takes one response and returns its text.

        Raises:
            InternalError: the final response was there already, or a count is no number.
        """
        if not outputs:
            return ""
        if self._final is not None:
            raise InternalError("the server sent a response after the final one")
        if "finish_reason" in outputs:
            self._final = outputs
        # Each response counts its own tokens, as Triton's vLLM backend does.
        self._output_tokens += _count(outputs, "num_output_tokens") if "num_output_tokens" in outputs else 0
        delta = str(outputs.get("text_output", ""))
        self._deltas.append(delta)
        return delta

    @property
    def complete(self) -> bool:
        """Whether the final response came."""
        return self._final is not None

    def result(self) -> GenerationResult:
        """The result of all responses.

        Raises:
            EngineUnavailableError: no final response came: what carries them ended the call.
            InternalError: the final response lacks what the contract promises.
        """
        if self._final is None:
            raise EngineUnavailableError("the call ended without a final response")
        final = self._final
        report = parse_report(str(final["constraint_report"])) if "constraint_report" in final else None
        if report is None and self._request.constraint is not None:
            raise InternalError("the final response has no constraint_report: nothing says that the constraint was enforced")
        logprob = final.get("cumulative_logprob")
        if isinstance(logprob, str):
            raise InternalError(f"cumulative_logprob is malformed: {logprob!r:.80}")
        envelope = str(final.get("provenance", ""))
        return GenerationResult(
            text="".join(self._deltas),
            finish_reason=str(final["finish_reason"]),
            constraint_satisfied=report.constraint_satisfied if report else None,
            guarantee=report.guarantee if report else "none",
            report=report,
            usage=Usage(prompt_tokens=_count(final, "num_input_tokens"), completion_tokens=self._output_tokens),
            request_id=self._request.request_id,
            text_input=self._request.text_input,
            constraint=self._request.constraint,
            cumulative_logprob=None if logprob is None else float(logprob),
            provenance=_statement(envelope),
            envelope=envelope,
            metrics=_json_object(final, "metrics"),
            output_type=self._request.output_type,
        )


def parse_report(text: str) -> ConstraintReport:
    """The report of its JSON text.

    Raises:
        InternalError: the text is no report.
    """
    try:
        return ConstraintReport.model_validate_json(text)
    except ValidationError as error:
        raise InternalError(f"constraint_report is malformed: {error}") from error


def validation_report(text: str) -> ConstraintReport:
    """The report of ``validate``, of its JSON text.

    Raises:
        AnankeError: it is not about the constraint: the server had no room for it, or no time.
        InternalError: the text is no report.
    """
    report = parse_report(text)
    if report.errors and report.errors[0].code in tuple(ErrorCode):
        error = error_of(report.errors[0].code, report.errors[0].message)
        if not _is_about_constraint(error):
            raise error
    return report


def refusal(error: AnankeError) -> ConstraintReport:
    """The report that a refused constraint's error stands for.

    Raises:
        AnankeError: the error is not about the constraint.
    """
    if not _is_about_constraint(error):
        raise error
    return ConstraintReport(accepted=False, errors=[Diagnostic(code=error.code, message=error.message)])


def _is_about_constraint(error: AnankeError) -> bool:
    return isinstance(error, RequestError) and error.code not in ("invalid_request", "unauthenticated")


def _count(outputs: Outputs, name: str) -> int:
    if name not in outputs:
        raise InternalError(f"the final response has no {name}")
    if not isinstance(count := outputs[name], int):
        raise InternalError(f"{name} is malformed: {count!r:.80}")
    return count


def _statement(envelope: str) -> dict[str, Any]:
    """The statement in an envelope, whose signatures are not verified."""
    if not envelope:
        return {}
    try:
        statement = Envelope.parse(envelope.encode()).statement
    except (EnvelopeError, NotCanonicalError) as error:
        raise InternalError(f"provenance is malformed: {error}") from error
    if not isinstance(statement, dict):
        raise InternalError("provenance is malformed: no JSON object")
    return statement


def _json_object(outputs: Outputs, name: str) -> dict[str, Any]:
    try:
        value = json.loads(str(outputs.get(name, "{}")))
    except (ValueError, RecursionError) as error:
        raise InternalError(f"{name} is malformed: {error}") from error
    if not isinstance(value, dict):
        raise InternalError(f"{name} is malformed: no JSON object")
    return value
