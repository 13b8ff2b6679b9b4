"""Schemas: JSON schemas, and the Python types that have one: pydantic models, dataclasses, TypedDicts, any annotation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ananke_client.errors import InvalidConstraintError

T = TypeVar("T")

SchemaType = type[T] | TypeAdapter[T]
"""A type whose instance a result's ``parsed`` gives; of a union or an alias make a ``TypeAdapter``."""

SchemaLike = Mapping[str, Any] | bool | type[Any] | TypeAdapter[Any]
"""A JSON schema, or a type that has one."""


def adapter_of(schema: Any) -> TypeAdapter[Any] | None:
    """The adapter that reads an output as an instance; None for a schema.

    Raises:
        InvalidConstraintError: it is neither a schema nor a type that pydantic knows.
    """
    if isinstance(schema, (Mapping, bool)):
        return None
    if isinstance(schema, TypeAdapter):
        return schema
    if schema is None or isinstance(schema, (str, bytes, int, float, list, tuple, set)) or inspect.isroutine(schema):
        raise InvalidConstraintError(f"the schema is a {type(schema).__name__}: give a mapping, a boolean, a type or a TypeAdapter")
    if isinstance(schema, BaseModel):
        raise InvalidConstraintError(f"the schema is an instance of {type(schema).__name__}: give the type itself")
    try:
        return TypeAdapter(schema)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise InvalidConstraintError(f"{schema!r} is no type that pydantic knows: {error}") from error


def schema_of(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    """The JSON schema of a type, as pydantic makes it for validation by alias, its objects closed.

    Closed: a model, dataclass or TypedDict that says nothing of further properties admits none. Python would drop them, and a
    language model that may add properties without end does.

    Raises:
        InvalidConstraintError: the type has a part that JSON cannot hold.
    """
    try:
        return adapter.json_schema(schema_generator=_Closed)
    except PydanticUserError as error:
        raise InvalidConstraintError(f"the type has no JSON schema: {error}") from error


class _Closed(GenerateJsonSchema):
    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        return _close(super().model_schema(schema))

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        return _close(super().dataclass_schema(schema))

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        return _close(super().typed_dict_schema(schema))


def _close(schema: JsonSchemaValue) -> JsonSchemaValue:
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return schema
