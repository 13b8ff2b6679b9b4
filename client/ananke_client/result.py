"""Results: one finished generation."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Generic

from pydantic import TypeAdapter
from typing_extensions import TypeVar

from ananke_client.report import ConstraintReport, Guarantee

T = TypeVar("T", default=Any)


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens that a generation took."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationResult(Generic[T]):
    """A finished generation; ``constraint_satisfied`` is the server's finding on the finished tokens, None without a constraint."""

    text: str
    finish_reason: str
    constraint_satisfied: bool | None
    guarantee: Guarantee
    report: ConstraintReport | None
    usage: Usage
    request_id: str
    text_input: str = field(default="", repr=False)
    """The prompt as it was sent, a text or a JSON list of messages: what the provenance has a digest of."""
    constraint: str | None = field(default=None, repr=False)
    """The constraint's JSON text as it was sent, to the byte, None without one: what the provenance has a digest of."""
    cumulative_logprob: float | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    """The in-toto Statement about the text; see ``ananke_client.provenance`` for how to verify the envelope that it came in."""
    envelope: str = field(default="", repr=False)
    """The DSSE envelope of the statement as it was received; it has no signatures where the server has no key."""
    metrics: dict[str, Any] = field(default_factory=dict)
    output_type: TypeAdapter[T] | None = field(default=None, repr=False, compare=False)
    """The type that the constraint was made of, if it was."""

    @property
    def parsed(self) -> T:
        """The JSON value that the text holds; an instance, where the constraint was made of a type.

        Raises:
            ValueError: the constraint was no ``json_schema``, the output does not satisfy it, or a validator of the type, of which
                its JSON schema says nothing, refuses the value (``pydantic.ValidationError``).
        """
        if self.report is None or self.report.kind != "json_schema":
            raise ValueError("only the output of a json_schema constraint is parsed")
        if self.constraint_satisfied is not True:
            raise ValueError(f"the output does not satisfy its schema: {self.report.unsatisfied_reason or self.finish_reason}")
        if self.output_type is not None:
            return self.output_type.validate_json(self.text)
        value: T = json.loads(self.text)
        return value
