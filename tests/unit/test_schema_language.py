"""The language of compiled schemas against jsonschema's verdicts, on random schemas, values and outputs."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator, FormatChecker
from schema_support import (
    admits,
    exact_json,
    odd_text,
    orders,
    random_document,
    random_draft7,
    random_output,
    random_schema,
    random_value,
    refers_to_itself,
)

from ananke_client.constraint import JsonSchemaConstraint
from ananke_client.errors import ErrorCode
from ananke_server.constraints.refusal import Refusal
from ananke_server.constraints.schema import SchemaGrammar, schema_grammar
from ananke_server.constraints.verify import fault_of

Judge = Callable[[Any], bool]
VALUES = 16
WALKS = 4


FORMATS = FormatChecker(())


@FORMATS.checks("date", raises=ValueError)
def _is_date(text: object) -> bool:
    """RFC 3339's dates; Python's own have no year 0."""
    if isinstance(text, str):
        if not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return False
        date.fromisoformat(f"{2000 + int(text[:4]) % 400}{text[4:]}")
    return True


def judge_of(schema: Any) -> Judge:
    """jsonschema's verdict; Python's ``$``, which also stands before a last line break, is made ECMA-262's."""
    older = isinstance(schema, dict) and "$schema" in schema
    exact = exact_json(json.dumps(schema).replace('$"', '\\\\Z"'))
    return (Draft7Validator if older else Draft202012Validator)(exact, format_checker=FORMATS).is_valid


def disagreements(schema: Any, choose: random.Random) -> Iterator[str]:
    """Everything in which the compiler contradicts jsonschema about a schema."""
    judge, endless = judge_of(schema), "$ref" in json.dumps(schema) and refers_to_itself(schema)
    values = [] if endless else [random_value(choose) for _ in range(VALUES)]
    valid = [value for value in values if judge(exact_json(json.dumps(value)))]
    try:
        grammar = schema_grammar(schema, unsupported="verify")
    except Refusal as refusal:
        yield from _of_refusal(refusal, valid)
        return
    if endless:
        return
    yield from _of_values(grammar, values, valid)
    if not grammar.relaxed:
        yield from _of_odd_texts(grammar, values, judge, choose)
    yield from _of_walks(schema, grammar, judge, choose)


def _of_refusal(refusal: Refusal, valid: list[Any]) -> Iterator[str]:
    if valid and {error.code for error in refusal.diagnostics} != {ErrorCode.CONSTRAINT_TOO_LARGE}:
        yield f"refused ({refusal}), but {valid[0]!r} is valid"


def _of_values(grammar: SchemaGrammar, values: list[Any], valid: list[Any]) -> Iterator[str]:
    narrowed = any(warning.code == "narrowed" for warning in grammar.warnings)
    for value in values:
        is_valid = any(value is one for one in valid)
        if grammar.relaxed and not is_valid:
            continue
        admitted = next((text for text in orders(value, 400 if is_valid else 40) if admits(grammar.lark, text)), None)
        if admitted is not None and not is_valid:
            yield f"admits {admitted}, which is invalid"
        if admitted is None and is_valid and not narrowed:
            yield f"admits no text of {value!r}, which is valid"


def _of_odd_texts(grammar: SchemaGrammar, values: list[Any], judge: Judge, choose: random.Random) -> Iterator[str]:
    for value in values:
        text = odd_text(value, choose)
        if admits(grammar.lark, text) and not _is_valid(text, judge):
            yield f"admits {text}, which is invalid"


def _of_walks(schema: Any, grammar: SchemaGrammar, judge: Judge, choose: random.Random) -> Iterator[str]:
    constraint = JsonSchemaConstraint(schema=schema).to_json()
    for _ in range(WALKS):
        output = random_output(grammar.lark, choose)
        if output is None:
            continue
        exact_json(output)
        if grammar.relaxed:
            continue
        if not _is_valid(output, judge):
            yield f"leads to {output}, which is invalid"
        if (fault := fault_of(constraint, output)) is not None:
            yield f"leads to {output}, at fault: {fault}"


def _is_valid(text: str, judge: Judge) -> bool:
    return judge(exact_json(text)) and judge(exact_json(text, first=True))


SEEDS = 40


@pytest.mark.parametrize("make", [random_schema, random_document, random_draft7])
@pytest.mark.parametrize("start", range(0, SEEDS, 20))
def test_compiled_schemas_agree_with_jsonschema(make: Callable[..., Any], start: int) -> None:
    found = []
    for seed in range(start, start + 20):
        choose = random.Random(seed)
        schema = make(choose, 3 + seed % 2)
        found += [(seed, complaint, schema) for complaint in disagreements(schema, choose)]
    assert found == []
