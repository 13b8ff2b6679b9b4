"""Constraints: what an output has to satisfy, as one JSON object."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictInt,
    TypeAdapter,
    model_serializer,
    model_validator,
)
from typing_extensions import TypeIs

from ananke_client.patterns import pattern_text
from ananke_client.schemas import SchemaLike, adapter_of, schema_of


class _Constraint(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """The constraint as the JSON object that the server takes, without options that are at their defaults.

        Raises:
            ValueError: a schema holds NaN or an infinity, which JSON cannot.
        """
        return json.dumps(self.model_dump(by_alias=True, exclude_defaults=True), ensure_ascii=False, allow_nan=False)

    @model_serializer(mode="wrap")
    def _with_type(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        return {"type": type(self).model_fields["type"].default, **fields}


class JsonSchemaConstraint(_Constraint):
    """The output is a JSON value that the schema admits (drafts 7, 2019-09 and 2020-12)."""

    type: Literal["json_schema"] = "json_schema"
    schema_: dict[str, Any] | StrictBool = Field(alias="schema")
    whitespace: Literal["flexible", "compact"] = "flexible"
    """``compact`` writes no white space between JSON's tokens."""
    unsupported: Literal["refuse", "verify"] = "refuse"
    """What becomes of keywords that a mask cannot express: a refusal, or a check of the finished output."""
    _output_type: TypeAdapter[Any] | None = PrivateAttr(None)

    @property
    def output_type(self) -> TypeAdapter[Any] | None:
        """The type that the schema was made of, if it was; it stays with the client."""
        return self._output_type

    @classmethod
    def of_type(cls, output_type: TypeAdapter[Any], **options: Any) -> JsonSchemaConstraint:
        """The constraint that a type's JSON schema makes. Raises: InvalidConstraintError, where it has none."""
        constraint = cls(schema=schema_of(output_type), **options)
        constraint._output_type = output_type
        return constraint


class RegexConstraint(_Constraint):
    """The whole output matches the pattern, in either dialect without lookaround and backreferences."""

    type: Literal["regex"] = "regex"
    pattern: str
    dialect: Literal["rust", "ecma"] = "rust"
    """``rust`` is the syntax of Rust's regex crate, with Unicode classes; ``ecma`` is ECMAScript's, where ``\\d`` and ``\\w`` are ASCII's.
    Both take the common forms of Perl and Python that mean the same."""


class ChoiceConstraint(_Constraint):
    """The output is one of the choices, to the letter."""

    type: Literal["choice"] = "choice"
    choices: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)


class GrammarConstraint(_Constraint):
    """The output derives from the grammar's start: ``start`` in Lark (as llguidance takes it), ``root`` in GBNF (as llama.cpp has it)."""

    type: Literal["grammar"] = "grammar"
    syntax: Literal["lark", "gbnf"] = "lark"
    grammar: str


TokenId = Annotated[StrictInt, Field(ge=0, lt=1 << 32)]


class TokenMaskConstraint(_Constraint):
    """Every token of the output is one of ``allowed``, and none is one of ``forbidden``; the end of sequence is always admitted."""

    type: Literal["token_mask"] = "token_mask"
    allowed: Annotated[list[TokenId], Field(min_length=1)] | None = None
    forbidden: list[TokenId] | None = None

    @model_validator(mode="after")
    def _masks_something(self) -> TokenMaskConstraint:
        if self.allowed is None and self.forbidden is None:
            raise ValueError("a token mask has 'allowed', 'forbidden' or both")
        return self


class CompositeConstraint(_Constraint):
    """The output satisfies all or any of the constraints, or is a sequence of texts of which each satisfies its constraint."""

    type: Literal["composite"] = "composite"
    mode: Literal["all", "any", "sequence"]
    constraints: list[Constraint] = Field(min_length=1)


Constraint = Annotated[
    JsonSchemaConstraint | RegexConstraint | ChoiceConstraint | GrammarConstraint | TokenMaskConstraint | CompositeConstraint,
    Field(discriminator="type"),
]

CompositeConstraint.model_rebuild()
_ADAPTER: TypeAdapter[Constraint] = TypeAdapter(Constraint)

KINDS: tuple[str, ...] = ("json_schema", "regex", "choice", "grammar", "token_mask", "composite")
"""The values of ``type``."""


def is_constraint(value: object) -> TypeIs[Constraint]:
    """Whether it is one of the constraints here, not a model of another kind."""
    return isinstance(value, _Constraint)


def parse_constraint(value: object) -> Constraint:
    """A constraint from its typed JSON object; the flat form is the server's to read.

    Raises:
        pydantic.ValidationError: the object is no constraint; every fault is listed with its location.
    """
    return _ADAPTER.validate_python(value)


class ConstraintSpec:
    """Makes constraints: ``ConstraintSpec.regex("[a-z]+")`` and its like."""

    @staticmethod
    def json_schema(
        schema: SchemaLike,
        *,
        whitespace: Literal["flexible", "compact"] = "flexible",
        unsupported: Literal["refuse", "verify"] = "refuse",
    ) -> JsonSchemaConstraint:
        """The output is a JSON value that ``schema`` admits.

        Of a type (a pydantic model, a dataclass, a TypedDict or a ``TypeAdapter``) its JSON schema is taken, with objects closed
        unless they say otherwise, and a result's ``parsed`` is an instance.

        Raises:
            InvalidConstraintError: it is neither schema nor type, or the type has no JSON schema.
        """
        if (output_type := adapter_of(schema)) is not None:
            return JsonSchemaConstraint.of_type(output_type, whitespace=whitespace, unsupported=unsupported)
        plain: Any = schema
        return JsonSchemaConstraint(schema=plain, whitespace=whitespace, unsupported=unsupported)

    @staticmethod
    def regex(pattern: str | re.Pattern[str], *, dialect: Literal["rust", "ecma"] = "rust") -> RegexConstraint:
        """The whole output matches ``pattern``; the flags of a compiled one are written into it.

        Raises:
            InvalidConstraintError: a compiled pattern is of bytes, or has a flag that no dialect has.
        """
        return RegexConstraint(pattern=pattern_text(pattern), dialect=dialect)

    @staticmethod
    def choice(*choices: str) -> ChoiceConstraint:
        """The output is one of ``choices``."""
        return ChoiceConstraint(choices=list(choices))

    @staticmethod
    def grammar(grammar: str, *, syntax: Literal["lark", "gbnf"] = "lark") -> GrammarConstraint:
        """The output derives from ``start`` of a Lark grammar, or from ``root`` of a GBNF grammar."""
        return GrammarConstraint(grammar=grammar, syntax=syntax)

    @staticmethod
    def token_mask(*, allowed: Iterable[int] | None = None, forbidden: Iterable[int] | None = None) -> TokenMaskConstraint:
        """Every token of the output is one of ``allowed``, and none is one of ``forbidden``."""
        return TokenMaskConstraint(
            allowed=None if allowed is None else list(allowed),
            forbidden=None if forbidden is None else list(forbidden),
        )

    @staticmethod
    def all_of(*constraints: Constraint) -> CompositeConstraint:
        """The output satisfies every one of ``constraints``."""
        return CompositeConstraint(mode="all", constraints=list(constraints))

    @staticmethod
    def any_of(*constraints: Constraint) -> CompositeConstraint:
        """The output satisfies at least one of ``constraints``."""
        return CompositeConstraint(mode="any", constraints=list(constraints))

    @staticmethod
    def sequence(*constraints: Constraint) -> CompositeConstraint:
        """The output is a text for each of ``constraints``, one after the other."""
        return CompositeConstraint(mode="sequence", constraints=list(constraints))
