"""Types in place of JSON schemas: what is sent for them, and the instance that comes back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Literal

import jsonschema
import pytest
from constraint_support import admits
from pydantic import BaseModel, ConfigDict, Field, RootModel, TypeAdapter, ValidationError, field_validator
from typing_extensions import TypedDict

from ananke_client import ConstraintReport, ConstraintSpec, GenerationConfig, InvalidConstraintError, parse_constraint
from ananke_client.request import GenerationRequest, json_schema_constraint
from ananke_client.response import ResponseAssembler


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: int = Field(ge=0, le=9)
    y: int | None = None


class Shape(BaseModel):
    name: str = Field(pattern="^[a-z]{1,8}$", alias="title")
    colour: Colour
    corners: list[Point] = Field(min_length=1, max_length=3)


@dataclasses.dataclass
class Size:
    width: int
    unit: Literal["mm", "in"] = "mm"


class Entry(TypedDict):
    key: str


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str]


class Tree(BaseModel):
    children: list[Tree] = Field(max_length=2)


class Even(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _even(cls, n: int) -> int:
        if n % 2:
            raise ValueError("odd")
        return n


Pet = TypeAdapter(Annotated[Cat | Dog, Field(discriminator="kind")])

TYPES = [
    (Shape, '{"title":"box","colour":"red","corners":[{"x":1},{"x":2,"y":3}]}', lambda v: (v.colour, v.corners[1].y) == (Colour.RED, 3)),
    (Size, '{"width":3}', lambda v: v == Size(3, "mm")),
    (Entry, '{"key":"a"}', lambda v: v == {"key": "a"}),
    (Pet, '{"kind":"dog","tricks":["sit"]}', lambda v: v == Dog(kind="dog", tricks=["sit"])),
    (list[Point], '[{"x":1}]', lambda v: v == [Point(x=1)]),
    (RootModel[dict[str, int]], '{"a":1}', lambda v: v.root == {"a": 1}),
    (Tree, '{"children":[{"children":[]}]}', lambda v: v.children[0].children == []),
    (Colour, '"blue"', lambda v: v is Colour.BLUE),
    (int, "7", lambda v: v == 7),
]


def result_of(constraint, text):
    request = GenerationRequest.of("x", constraint, GenerationConfig(), stream=False, timeout=1, request_id=None)
    responses = ResponseAssembler(request)
    report = ConstraintReport(accepted=True, kind="json_schema", constraint_satisfied=True)
    responses.add({"text_output": text, "finish_reason": "stop", "num_input_tokens": 1, "constraint_report": report.model_dump_json()})
    return responses.result()


@pytest.mark.parametrize(("kind", "text", "good"), TYPES, ids=lambda value: getattr(value, "__name__", None))
@pytest.mark.parametrize("make", [json_schema_constraint, ConstraintSpec.json_schema])
def test_a_type_comes_back_as_an_instance(make, kind, text, good):
    constraint = make(kind)
    jsonschema.Draft202012Validator(constraint.schema_).validate(json.loads(text))
    assert good(result_of(constraint, text).parsed)
    assert parse_constraint(json.loads(constraint.to_json())).schema_ == constraint.schema_
    assert admits(constraint.to_json())(text), "the server's masks do not admit it"


def test_objects_are_closed_unless_they_say_otherwise():
    schema = ConstraintSpec.json_schema(Shape).schema_
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Point"]["additionalProperties"] is False
    assert ConstraintSpec.json_schema(Size).schema_["additionalProperties"] is False
    assert ConstraintSpec.json_schema(Entry).schema_["additionalProperties"] is False
    assert ConstraintSpec.json_schema(Open).schema_["additionalProperties"] is True
    assert ConstraintSpec.json_schema(RootModel[dict[str, int]]).schema_["additionalProperties"] == {"type": "integer"}


def test_options_go_beside_a_type():
    constraint = ConstraintSpec.json_schema(Size, whitespace="compact", unsupported="verify")
    sent = json.loads(constraint.to_json())
    assert (sent["type"], sent["whitespace"], sent["unsupported"]) == ("json_schema", "compact", "verify")
    assert set(sent) == {"type", "schema", "whitespace", "unsupported"}


def test_a_schema_comes_back_as_plain_json():
    for constraint in (json_schema_constraint({"type": "object"}), ConstraintSpec.json_schema({"type": "object"})):
        assert result_of(constraint, '{"a": 1}').parsed == {"a": 1}


def test_what_a_schema_cannot_say_is_still_checked():
    with pytest.raises(ValidationError, match="odd"):
        _ = result_of(ConstraintSpec.json_schema(Even), '{"n": 3}').parsed


class NotJson:
    pass


@pytest.mark.parametrize("schema", ['{"type": "object"}', None, 7, [Point], NotJson, lambda: 1, TypeAdapter(Callable[[int], int])])
@pytest.mark.parametrize("make", [json_schema_constraint, ConstraintSpec.json_schema])
def test_what_has_no_schema_is_refused(make, schema):
    with pytest.raises(InvalidConstraintError):
        make(schema)
