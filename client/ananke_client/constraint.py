"""Constraints: what an output has to satisfy, as one JSON object."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, TypeAdapter


class _Constraint(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """The constraint as the JSON object that the server takes.

        Raises:
            ValueError: a schema holds NaN or an infinity, which JSON cannot.
        """
        return json.dumps(self.model_dump(by_alias=True), ensure_ascii=False, allow_nan=False)


class JsonSchemaConstraint(_Constraint):
    """The output is a JSON value that the schema admits."""

    type: Literal["json_schema"] = "json_schema"
    schema_: dict[str, Any] | StrictBool = Field(alias="schema")
    whitespace: Literal["flexible", "compact"] = "flexible"
    """``compact`` writes no white space between JSON's tokens."""


class RegexConstraint(_Constraint):
    """The whole output matches the pattern (Rust's regex syntax, without lookaround and backreferences)."""

    type: Literal["regex"] = "regex"
    pattern: str


class ChoiceConstraint(_Constraint):
    """The output is one of the choices, to the letter."""

    type: Literal["choice"] = "choice"
    choices: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)


class GrammarConstraint(_Constraint):
    """The output derives from the grammar's ``start`` (Lark syntax, as llguidance takes it)."""

    type: Literal["grammar"] = "grammar"
    syntax: Literal["lark"] = "lark"
    grammar: str


Constraint = JsonSchemaConstraint | RegexConstraint | ChoiceConstraint | GrammarConstraint

_ADAPTER: TypeAdapter[Constraint] = TypeAdapter(Annotated[Constraint, Field(discriminator="type")])

KINDS: tuple[str, ...] = ("json_schema", "regex", "choice", "grammar")
"""The values of ``type`` that the server enforces."""


def parse_constraint(value: object) -> Constraint:
    """A constraint from its JSON object.

    Raises:
        pydantic.ValidationError: the object is no constraint; every fault is listed with its location.
    """
    return _ADAPTER.validate_python(value)


class ConstraintSpec:
    """Makes constraints: ``ConstraintSpec.regex("[a-z]+")`` and its like."""

    @staticmethod
    def json_schema(schema: dict[str, Any] | bool, *, whitespace: Literal["flexible", "compact"] = "flexible") -> JsonSchemaConstraint:
        """The output is a JSON value that ``schema`` admits."""
        return JsonSchemaConstraint(schema=schema, whitespace=whitespace)

    @staticmethod
    def regex(pattern: str) -> RegexConstraint:
        """The whole output matches ``pattern``."""
        return RegexConstraint(pattern=pattern)

    @staticmethod
    def choice(*choices: str) -> ChoiceConstraint:
        """The output is one of ``choices``."""
        return ChoiceConstraint(choices=list(choices))

    @staticmethod
    def grammar(grammar: str) -> GrammarConstraint:
        """The output derives from ``start`` of a Lark grammar."""
        return GrammarConstraint(grammar=grammar)
