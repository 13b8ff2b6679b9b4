"""What the compiler promises of any constraint: everything it cannot enforce refused with a place, never an exception."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest
from constraint_support import COMPILER, LIMITS, TOKENIZER, choice, is_sound, lark, regex, schema
from hypothesis import given, settings
from hypothesis import strategies as st

from ananke_client.errors import ErrorCode

# Shapes: what is not a constraint at all.


@pytest.mark.parametrize(
    ("text", "pointers"),
    [
        ("null", [""]),
        ("3", [""]),
        ("[]", [""]),
        ("{}", [""]),
        ('{"type": null}', ["/type"]),
        ('{"type": 3}', ["/type"]),
        ('{"type": ["regex"]}', ["/type"]),
        ('{"type": "nope"}', ["/type"]),
        ('{"type": "regex"}', ["/pattern"]),
        ('{"type": "regex", "pattern": 3}', ["/pattern"]),
        ('{"type": "regex", "pattern": "a", "x": 1, "a/b": 2}', ["/x", "/a~1b"]),
        ('{"type": "choice"}', ["/choices"]),
        ('{"type": "choice", "choices": []}', ["/choices"]),
        ('{"type": "choice", "choices": "ab"}', ["/choices"]),
        ('{"type": "choice", "choices": ["a", 3, "", null]}', ["/choices/1", "/choices/2", "/choices/3"]),
        ('{"type": "json_schema"}', ["/schema"]),
        ('{"type": "json_schema", "schema": {}, "whitespace": "tight"}', ["/whitespace"]),
        ('{"type": "grammar", "grammar": null}', ["/grammar"]),
        ('{"type": "grammar", "grammar": "a", "syntax": "ebnf"}', ["/syntax"]),
        pytest.param('{"type": "json_schema", "schema": null}', ["/schema"]),
        pytest.param('{"type": "json_schema", "schema": "true"}', ["/schema"]),
        pytest.param('{"type": "json_schema", "schema": 1}', ["/schema"]),
        pytest.param('{"type": "json_schema", "schema_": {}}', ["/schema", "/schema_"]),
    ],
)
def test_a_faulty_shape_is_refused_at_its_pointers(text: str, pointers: list[str]) -> None:
    compiled = COMPILER.compile(text)
    assert is_sound(compiled)
    assert [error.pointer for error in compiled.report.errors] == pointers
    assert {error.code for error in compiled.report.errors} == {ErrorCode.INVALID_CONSTRAINT}


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("", 1, 1),
        ("{", 1, 2),
        ('{\n"type": "regex",\n  pattern: 3}', 3, 3),
        ('{"type": "regex", "pattern": "a', 1, 30),
        ('{"type": "regex", "pattern": "a"} x', 1, 35),
        ('{"type": "regex", "pattern": "\t"}', 1, 31),
        ("\ufeff{}", 1, 1),
        ('{"type": NaN}', None, None),
        ('{"type": "json_schema", "schema": {"maximum": -Infinity}}', None, None),
        ('{"type": "json_schema", "schema": {"const": ' + "9" * 5000 + "}}", None, None),
        (r'{"type": "regex", "pattern": "\ud800"}', None, None),
        ('{"type": "regex", "pattern": "\ud800"}', None, None),
        (r'{"type": "json_schema", "schema": {"\udc00": 1}}', None, None),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_a_text_that_is_not_json_is_refused_at_its_line_and_column(text: str, line: int | None, column: int | None) -> None:
    compiled = COMPILER.compile(text)
    assert is_sound(compiled)
    [error] = compiled.report.errors
    assert (error.code, error.line, error.column) == (ErrorCode.INVALID_CONSTRAINT, line, column)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(schema(True)),
        pytest.param(schema(False)),
        pytest.param('{"type": "json_schema", "schema": {"maximum": 1e999}}'),
        pytest.param('{"type": "json_schema", "schema": {"const": -1e999}}'),
        pytest.param('{"type": "json_schema", "schema": {"minimum": ' + "9" * 400 + "}}"),
        '{"type": "json_schema", "schema": {"minItems": 1e999}}',
        '{"type": "json_schema", "schema": {"minItems": ' + "9" * 400 + "}}",
    ],
    ids=lambda text: text[:60],
)
def test_numbers_and_booleans_raise_nothing(text: str) -> None:
    assert is_sound(COMPILER.compile(text))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000 + "]" * 5000,
        '{"a":' * 5000 + "1" + "}" * 5000,
        "[" * 200_000,
        schema(json.loads('{"items":' * LIMITS.nesting + "{}" + "}" * LIMITS.nesting)),
        regex("a" * (2 << 20)),
        regex("é" * (LIMITS.bytes // 2)),
    ],
    ids=["lists", "objects", "unclosed", "schema", "bytes", "characters"],
)
def test_what_is_too_large_is_refused_at_once(text: str) -> None:
    begun = time.process_time()
    compiled = COMPILER.compile(text)
    assert time.process_time() - begun < 1
    assert is_sound(compiled)
    assert [error.code for error in compiled.report.errors] == [ErrorCode.CONSTRAINT_TOO_LARGE]


@pytest.mark.parametrize(
    "body",
    [
        "A?\nA: /a/ & /b/",
        "A\nA: /a+/ & ~/a/",
        '"a" start | "b"',
        '"a" start?',
        '["x" start]',
        'a*\na: a "b"',
        'a{0,2}\na: a "b"',
        '"a"\nb: b "x"',
    ],
)
def test_what_has_an_end_is_taken(body: str) -> None:
    assert COMPILER.compile(lark(f"start: {body}")).report.accepted


def test_a_report_stays_small_and_says_nothing_twice() -> None:
    report = COMPILER.compile(schema({"properties": {f"p{i}": 3 for i in range(300)}})).report
    assert len(report.errors) <= 100
    assert len(set(map(str, report.errors))) == len(report.errors)


BOMBS = {
    "array bound in %json": lark('start: %json {"type": "array", "minItems": 1000000000}'),
    "long required": schema({"required": [f"a{i}" for i in range(30_000)]}),
    "chain of rules": lark('start: r0\nr20000: "z"\n' + "\n".join(f'r{i}: "a{i}" | r{i + 1}' for i in range(20_000))),
}

COMPILE_ALONE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from llguidance import LLTokenizer
from ananke_server.constraints import Compiler
Compiler(LLTokenizer("byte")).compile(sys.stdin.read())
"""


@pytest.mark.parametrize("name", [pytest.param(name) for name in BOMBS])
def test_no_constraint_ends_the_process(name: str) -> None:
    alone = subprocess.run([sys.executable, "-c", COMPILE_ALONE], input=BOMBS[name], text=True, capture_output=True, timeout=300)
    assert alone.returncode == 0


# Any text and any JSON at all.

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYWORDS = [
    "type",
    "properties",
    "items",
    "enum",
    "const",
    "minimum",
    "maxLength",
    "pattern",
    "required",
    "anyOf",
    "$ref",
    "$schema",
    "x-guidance",
]
SCHEMAS = st.dictionaries(
    st.sampled_from(KEYWORDS) | st.text(max_size=3), JSON_VALUES | st.sampled_from(["object", "string", "#"]), max_size=4
)
CONSTRAINTS = st.one_of(
    JSON_VALUES,
    st.fixed_dictionaries({"type": st.just("regex"), "pattern": st.text(max_size=12) | st.text("ab()[]{}*+?|\\^$.", max_size=12)}),
    st.fixed_dictionaries({"type": st.just("choice"), "choices": st.lists(st.text(max_size=4), max_size=4) | JSON_VALUES}),
    st.fixed_dictionaries(
        {"type": st.just("grammar"), "grammar": st.text(max_size=20) | st.text('start: "ab"|/%\n', max_size=25).map("start: ".__add__)}
    ),
    st.fixed_dictionaries({"type": st.just("json_schema"), "schema": SCHEMAS}, optional={"whitespace": JSON_VALUES}),
    st.fixed_dictionaries(
        {"type": JSON_VALUES | st.sampled_from(["regex", "choice"])}, optional={"pattern": JSON_VALUES, "choices": JSON_VALUES}
    ),
)


@given(st.text())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_text_has_a_report(text: str) -> None:
    assert is_sound(COMPILER.compile(text))


@given(CONSTRAINTS)
@settings(max_examples=250, deadline=None, derandomize=True)
def test_any_json_has_a_report(value: object) -> None:
    assert is_sound(COMPILER.compile(json.dumps(value)))


@given(CONSTRAINTS, st.data())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_truncated_json_has_a_report(value: object, data: st.DataObject) -> None:
    text = json.dumps(value)
    cut = text[: data.draw(st.integers(0, len(text)))]
    assert is_sound(COMPILER.compile(cut))


# Keys and finished outputs.


def key(text: str) -> str | None:
    report = COMPILER.compile(text).report
    assert report.accepted, report
    return report.key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"type":"regex","pattern":"a"}', '{ "type" : "regex",\n\t"pattern": "a" }'),
        ('{"type":"regex","pattern":"a"}', '{"pattern":"\\u0061","type":"regex"}'),
        (
            '{"type":"json_schema","schema":{"type":"integer"}}',
            '{"type":"json_schema","whitespace":"flexible","schema":{"type": "integer"}}',
        ),
        ('{"type":"grammar","grammar":"start: \\"a\\""}', '{"type":"grammar","syntax":"lark","grammar":"start: \\"a\\""}'),
    ],
)
def test_the_same_constraint_has_the_same_key(one: str, other: str) -> None:
    assert key(one) == key(other)


def test_different_constraints_have_different_keys() -> None:
    schemas: list[object] = [{}, {"const": None}, {"const": 1}, {"const": True}, {"const": 1.0}, {"const": "1"}, {"enum": [1]}]
    ordered: list[object] = [{"properties": {"a": {}, "b": {}}}, {"properties": {"b": {}, "a": {}}}]
    texts = [*map(schema, schemas + ordered), schema({}, whitespace="compact"), regex("a"), regex("b"), choice("a"), choice("a", "b")]
    texts += [choice("b", "a"), lark('start: "a"'), lark('start: "b"')]
    assert len(set(map(key, texts))) == len(texts)
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", str(key(text))) for text in texts)


def test_a_finished_output_is_judged_with_and_without_its_end() -> None:
    grammar = COMPILER.compile(regex("ab?")).grammar
    assert grammar is not None
    end = TOKENIZER.eos_token
    judged = {
        tokens: COMPILER.satisfies(grammar, list(tokens))
        for tokens in [(97,), (97, end), (97, 98, end), (98,), (), (end,), (97, end, 98), (97, 97)]
    }
    assert [tokens for tokens, satisfied in judged.items() if satisfied] == [(97,), (97, end), (97, 98, end)]


def test_a_refused_constraint_keeps_its_kind() -> None:
    assert COMPILER.compile(regex("(")).report.kind == "regex"
    assert COMPILER.compile("{").report.kind is None
