"""Kinds of constraints that are switched off are refused wherever they stand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from constraint_support import TOKENIZER, choice, constraint, lark, regex, schema

from ananke_client.constraint import KINDS
from ananke_client.errors import ErrorCode
from ananke_server.constraints import Compiler
from ananke_server.constraints.kinds import Kinds
from ananke_server.constraints.sandbox import SandboxedCompiler
from ananke_server.constraints.sandbox.options import SandboxOptions

EXAMPLES = {
    "json_schema": schema({"type": "null"}),
    "regex": regex("a"),
    "choice": choice("a"),
    "grammar": lark("start: /a/"),
    "token_mask": constraint("token_mask", allowed=[97]),
    "composite": constraint("composite", mode="any", constraints=[json.loads(regex("a")), json.loads(choice("b"))]),
}


def without(*kinds: str) -> Compiler:
    return Compiler(TOKENIZER, kinds=Kinds(**dict.fromkeys(kinds, False)))


@pytest.mark.parametrize("off", KINDS)
def test_one_that_is_off_is_refused_and_the_others_are_taken(off: str) -> None:
    for kind, text in EXAMPLES.items():
        report = without(off).compile(text).report
        parts = {part["type"] for part in json.loads(text).get("constraints", [])}
        assert report.accepted is (off not in {kind, *parts}), kind
        if kind == off:
            [error] = report.errors
            assert (error.code, error.pointer, report.kind) == (ErrorCode.UNSUPPORTED_CONSTRAINT, "", kind)
            assert error.message == f"the operator of this server has switched constraints of the kind {off} off"
            assert error.hint == f"use another kind: {', '.join(other for other in KINDS if other != off)}"


@pytest.mark.parametrize(
    ("value", "pointers"),
    [
        ({"grammar": "start: /a/"}, ["/grammar"]),
        ({"json_schema": {"type": "null"}, "grammar": "start: /a/"}, ["/grammar"]),
        (
            {
                "type": "composite",
                "mode": "sequence",
                "constraints": [
                    json.loads(lark("start: /a/")),
                    {"type": "composite", "mode": "all", "constraints": [json.loads(regex("b")), json.loads(lark("start: /b/"))]},
                ],
            },
            ["/constraints/0", "/constraints/1/constraints/1"],
        ),
    ],
)
def test_parts_are_refused_where_they_stand(value: Mapping[str, Any], pointers: list[str]) -> None:
    errors = without("grammar").compile(json.dumps(value)).report.errors
    assert [error.pointer for error in errors] == pointers
    assert {error.code for error in errors} == {ErrorCode.UNSUPPORTED_CONSTRAINT}


def test_where_all_are_off_that_is_said() -> None:
    [error] = without(*KINDS).compile(EXAMPLES["regex"]).report.errors
    assert error.hint == "use another kind: all are off"


def test_the_sandbox_is_told() -> None:
    compiler = SandboxedCompiler("some/model", kinds=Kinds(regex=False))
    try:
        assert SandboxOptions.from_text(compiler._options.to_text()).kinds == Kinds(regex=False)
    finally:
        compiler.close()
