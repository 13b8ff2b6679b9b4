"""The flat form of Ananke's compiler: every key is enforced, metadata is reported, whatever looks like a slip is refused at its place."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from languages import COMPILER, language, texts_over

from ananke_client.errors import ErrorCode
from ananke_client.report import Diagnostic

TEXTS = texts_over('ab1"\n', 4)


def found(value: object) -> set[str]:
    return language(json.dumps(value), TEXTS)


def matching(*patterns: str) -> set[str]:
    return {text for text in TEXTS if all(re.search(pattern, text) for pattern in patterns)}


def errors(value: object) -> list[Diagnostic]:
    return COMPILER.compile(json.dumps(value)).report.errors


@pytest.mark.parametrize("pattern", ["a", "^a", "b$", "^a$", "^a|1$", "a|^b", "(?:^|1)a", "a{2}", "a.b", "[^a]", "", "(a)(b)", "a*"])
def test_a_pattern_matches_somewhere(pattern: str) -> None:
    assert found({"regex_patterns": [pattern]}) == matching(_as_ecma(pattern))
    assert found({"regex_patterns": [{"pattern": pattern}]}) == matching(_as_ecma(pattern))


def _as_ecma(pattern: str) -> str:
    """Python's ``$`` also stands before a last newline."""
    return pattern.replace("$", r"\Z")


@pytest.mark.parametrize(
    ("entry", "pattern"),
    [
        ({"pattern": "A", "flags": "i"}, "(?i)A"),
        ({"pattern": "a.b", "flags": "s"}, "(?s)a.b"),
        ({"pattern": "A.1", "flags": "mis"}, "(?ims)A.1"),
        ({"pattern": "a|B", "flags": "ii"}, "(?i)a|B"),
        ({"pattern": "a", "flags": ""}, "a"),
        ({"pattern": "a", "flags": None}, "a"),
    ],
    ids=str,
)
def test_flags_are_honoured(entry: dict[str, Any], pattern: str) -> None:
    assert found({"regex_patterns": [entry]}) == matching(pattern)


def test_all_keys_are_enforced_together() -> None:
    value = {
        "json_schema": {"type": "string", "maxLength": 2},
        "regex_patterns": ["a", {"pattern": "B", "flags": "i"}],
        "token_mask": {"forbidden_tokens": [ord("1")]},
        "token_masks": [{"allowed_tokens": list(b'ab"1')}],
        "grammar": 'start: /"a.*/',
    }
    assert found(value) == {'"ab"'}
    assert found({key: value[key] for key in ("json_schema", "regex_patterns")}) == {'"ab"', '"ba"'}


@pytest.mark.parametrize("key", ["token_mask", "token_masks"])
def test_a_token_mask_is_taken_alone_or_in_a_list(key: str) -> None:
    mask = {"allowed_tokens": [97, 98], "forbidden_tokens": [98]}
    expected = {text for text in TEXTS if set(text) <= {"a"}}
    assert found({key: mask}) == found({key: [mask]}) == expected
    assert found({key: [{"allowed_tokens": [97, 98]}, {"forbidden_tokens": [98], "allowed_tokens": None}]}) == expected


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "a" "b"?',
        'root ::= "a" "b"?',
        {"grammar": 'start: "a" "b"?'},
        {"syntax": "gbnf", "grammar": 'root ::= "a" "b"?'},
        {"syntax": "lark", "rules": 'start: "a" b\nb: "b"?'},
        {"rules": ['root ::= "a" b', 'b ::= "b"?']},
    ],
    ids=str,
)
def test_a_grammar_is_taken_in_either_syntax(grammar: object) -> None:
    assert found({"grammar": grammar}) == {"a", "ab"}


def test_a_schema_is_taken_as_an_object_or_as_its_text() -> None:
    value = {"type": "array", "items": {"const": 1}, "maxItems": 1}
    texts = ["[]", "[1]", "[ 1 ]", "[1,1]", "[2]"]
    for schema in (value, json.dumps(value)):
        assert language(json.dumps({"json_schema": schema}), texts) >= {"[]", "[1]"}
        assert language(json.dumps({"json_schema": schema, "whitespace": "compact"}), texts) == {"[]", "[1]"}


def test_an_option_applies_to_the_schema() -> None:
    schema = {"type": "array", "uniqueItems": True}
    assert not COMPILER.compile(json.dumps({"json_schema": schema})).report.accepted
    report = COMPILER.compile(json.dumps({"json_schema": schema, "regex_patterns": ["a"], "unsupported": "verify"})).report
    assert (report.guarantee, [finding.pointer for finding in report.relaxed]) == ("verified", ["/json_schema/uniqueItems"])


def test_the_flat_and_the_typed_form_share_their_key() -> None:
    typed = {"type": "json_schema", "schema": {"type": "integer"}}
    for flat in (
        {"json_schema": {"type": "integer"}},
        {"name": "x", "regex_patterns": [], "token_masks": None, "json_schema": '{"type":"integer"}'},
    ):
        assert COMPILER.compile(json.dumps(flat)).report.key == COMPILER.compile(json.dumps(typed)).report.key


# Metadata and slips.


def test_metadata_is_reported_as_not_enforced() -> None:
    value = {"name": "n", "priority": 3, "x/y": [1], "rich_context": {}, "regex_patterns": [{"pattern": "a", "name": "p"}], "grammar": None}
    report = COMPILER.compile(json.dumps(value)).report
    assert report.accepted
    assert {warning.pointer for warning in report.warnings} == {"/name", "/priority", "/x~1y", "/rich_context", "/regex_patterns/0/name"}
    assert {warning.code for warning in report.warnings} == {"metadata"}
    assert all("not enforced" in warning.message for warning in report.warnings)


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("json_shema", "json_schema"),
        ("jsonschema", "json_schema"),
        ("JSON_Schema", "json_schema"),
        ("schema", "json_schema"),
        ("grammer", "grammar"),
        ("gbnf", "grammar"),
        ("regex_pattern", "regex_patterns"),
        ("regex", "regex_patterns"),
        ("pattern", "regex_patterns"),
        ("token_maks", "token_mask"),
        ("forbidden_tokens", "token_mask"),
        ("white_space", "whitespace"),
        ("choices", "'type'"),
        ("constraints", "'type'"),
    ],
)
def test_what_looks_like_a_slip_is_refused_with_what_was_meant(slip: str, meant: str) -> None:
    [error] = errors({"regex_patterns": ["a"], slip: "a"})
    assert (error.code, error.pointer) == (ErrorCode.INVALID_CONSTRAINT, f"/{slip}")
    assert meant in str(error.hint)


@pytest.mark.parametrize(
    ("value", "pointer", "place"),
    [
        ({"regex_patterns": [{"pattern": "a"}, {"pattern": "b("}]}, "/regex_patterns/1/pattern", (1, 2)),
        ({"regex_patterns": ["a", "b("], "grammar": 'start: "a"'}, "/regex_patterns/1", (1, 2)),
        ({"regex_patterns": [{"pattern": "a\n)(b", "flags": "i"}]}, "/regex_patterns/0/pattern", (2, 1)),
        ({"regex_patterns": [{"pattern": "a", "flags": 3}]}, "/regex_patterns/0/flags", (None, None)),
        ({"regex_patterns": [{"flags": "i"}]}, "/regex_patterns/0/pattern", (None, None)),
        ({"regex_patterns": "a"}, "/regex_patterns", (None, None)),
        ({"regex_patterns": {"pattern": "a"}}, "/regex_patterns", (None, None)),
        ({"json_schema": {"type": "banana"}}, "/json_schema/type", (None, None)),
        ({"json_schema": {"type": "banana"}, "regex_patterns": ["a"]}, "/json_schema/type", (None, None)),
        ({"json_schema": '{"type": "banana"}', "regex_patterns": ["a"]}, "/json_schema", (None, None)),
        ({"json_schema": '{"type": \n}'}, "/json_schema", (2, 1)),
        ({"json_schema": 3}, "/json_schema", (None, None)),
        ({"json_schema": {"additional_properties": False}}, "/json_schema/additional_properties", (None, None)),
        ({"json_schema": {}, "whitespace": "tight"}, "/whitespace", (None, None)),
        ({"json_schema": {}, "regex_patterns": ["a"], "unsupported": 1}, "/unsupported", (None, None)),
        ({"regex_patterns": ["a"], "whitespace": "compact"}, "/whitespace", (None, None)),
        ({"grammar": "start: )"}, "/grammar", (1, 8)),
        ({"grammar": 'root ::= "a', "regex_patterns": ["a"]}, "/grammar", (1, 10)),
        ({"grammar": {"syntax": "ebnf", "grammar": "x"}}, "/grammar/syntax", (None, None)),
        ({"grammar": {"rules": 'start: "a" x'}}, "/grammar/rules", (1, 8)),
        ({"grammar": {"rules": "a", "start_symbol": "x"}}, "/grammar/start_symbol", (None, None)),
        ({"token_mask": [1]}, "/token_mask/0", (None, None)),
        ({"token_mask": {}}, "/token_mask", (None, None)),
        ({"token_mask": {"allowed_tokens": [1, -2]}}, "/token_mask/allowed_tokens/1", (None, None)),
        ({"token_masks": [{"allowed_tokens": [1]}, {"allowed": [1]}]}, "/token_masks/1/allowed", (None, None)),
        (
            {"token_masks": {"allowed_tokens": [1], "forbidden_tokens": [1]}, "regex_patterns": ["a"]},
            "/token_masks/forbidden_tokens",
            (None, None),
        ),
        ({"grammar": None}, "", (None, None)),
        ({"regex_patterns": []}, "", (None, None)),
    ],
    ids=lambda value: json.dumps(value)[:70] if isinstance(value, dict) else None,
)
def test_a_fault_is_told_where_the_user_wrote_it(value: object, pointer: str, place: tuple[int | None, int | None]) -> None:
    [error] = errors(value)
    assert (error.code, error.pointer, (error.line, error.column)) == (ErrorCode.INVALID_CONSTRAINT, pointer, place)


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ({"regex_patterns": [{"pattern": "a", "flags": "ix"}]}, "/regex_patterns/0/flags"),
        ({"regex_patterns": ["a", "(?=b)"]}, "/regex_patterns/1"),
        ({"regex_patterns": [{"pattern": r"(a)\1"}]}, "/regex_patterns/0/pattern"),
        ({"grammar": {"rules": [{"lhs": "a", "rhs": ["b"]}]}}, "/grammar/rules"),
    ],
    ids=str,
)
def test_what_cannot_be_enforced_is_refused_as_such(value: object, pointer: str) -> None:
    [error] = errors(value)
    assert (error.code, error.pointer) == (ErrorCode.UNSUPPORTED_CONSTRAINT, pointer)


def test_a_fault_under_flags_keeps_its_column() -> None:
    [error] = errors({"regex_patterns": [{"pattern": "ab|^b", "flags": "im"}]})
    assert (error.code, error.pointer, error.column) == (ErrorCode.UNSUPPORTED_CONSTRAINT, "/regex_patterns/0/pattern", 4)


def test_all_faults_are_told_at_once() -> None:
    value = {"regex_patterns": ["(", 3], "grammar": 5, "token_mask": {"x": 1}, "json_shema": {}}
    pointers = {error.pointer for error in errors(value)}
    assert pointers == {"/regex_patterns/0", "/regex_patterns/1", "/grammar", "/token_mask/x", "/json_shema"}


def test_patterns_that_contradict_each_other_are_refused() -> None:
    [error] = errors({"regex_patterns": ["^a$", "^b$"]})
    assert (error.code, error.pointer) == (ErrorCode.INVALID_CONSTRAINT, "")
