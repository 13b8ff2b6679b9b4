"""What the compiler of constraints promises: the right texts admitted, everything else refused with a place, never an exception.

Outputs are judged by validators that share no code with llguidance: ``re``, ``jsonschema``, ``lark`` and plain membership.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator
from lark import Lark
from lark.exceptions import LarkError
from llguidance import LLTokenizer

from ananke_client.errors import ErrorCode
from ananke_server.constraints import CompiledConstraint, Compiler
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.schemas import MAX_ARRAY_BOUND
from ananke_server.constraints.verify import fault_of
from ananke_server.masking.matchers import new_matcher

TOKENIZER = LLTokenizer("byte")
COMPILER = Compiler(TOKENIZER)
LIMITS = Limits()
MODEL = Path(__file__).parents[2] / ".ananke/models/SmolLM2-135M-Instruct"
CODES = frozenset(ErrorCode)
DRAFT_7 = "http://json-schema.org/draft-07/schema#"


def constraint(kind: str, /, **fields: object) -> str:
    return json.dumps({"type": kind, **fields})


def regex(pattern: str) -> str:
    return constraint("regex", pattern=pattern)


def choice(*choices: str) -> str:
    return constraint("choice", choices=choices)


def lark(grammar: str) -> str:
    return constraint("grammar", grammar=grammar)


def schema(value: object, **options: object) -> str:
    return constraint("json_schema", schema=value, **options)


def admits(text: str) -> Any:
    """Whether the constraint of a text is satisfied by an output, as a function of the output."""
    compiled = COMPILER.compile(text)
    assert compiled.report.accepted, compiled.report
    assert compiled.grammar is not None
    return lambda output: COMPILER.satisfies_text(compiled.grammar, output)


def is_sound(compiled: CompiledConstraint) -> bool:
    """A report is either accepted with a grammar, a guarantee and a key, or refused with errors of the closed set."""
    report = compiled.report
    if report.accepted:
        return compiled.grammar is not None and report.guarantee == "exact" and report.key is not None and not report.errors
    placed = all(error.code in CODES and error.message for error in report.errors)
    return compiled.grammar is None and report.guarantee == "none" and bool(report.errors) and placed


ARITHMETIC = """
start: sum
sum: product | sum "+" product
product: atom | product "*" atom
atom: NUMBER | "(" sum ")"
NUMBER: /[0-9]+/
"""

# Regular expressions, judged by re.fullmatch.

SHORT_TEXTS = ["".join(letters) for length in range(4) for letters in itertools.product("ab\n", repeat=length)]


@pytest.mark.parametrize(
    "pattern",
    [
        "a",
        "",
        "^a$",
        "^a",
        "a$",
        "a|^b",
        "^a|b$",
        "(?:^|a)b",
        "a(?:$|b)",
        "^$",
        "(?i)AB",
        "a.b",
        "(?s)a.b",
        "[^b]+",
        "a??b",
        "(a|ab)(b|)",
        "a{2,3}",
        "(?x) a b",
        "(?P<name>a)",
        r"\s+",
        r"[^\s\S]|a",
        "a*b*",
        "(ab)*",
    ],
)
def test_a_regex_is_matched_by_the_whole_output(pattern: str) -> None:
    admitted = admits(regex(pattern))
    assert [text for text in SHORT_TEXTS if admitted(text)] == [text for text in SHORT_TEXTS if re.fullmatch(pattern, text)]


@pytest.mark.parametrize(
    ("pattern", "text"), [(r"\d", "\u0665"), (r"\w", "é"), (".", "\u2028"), (".", "😀"), ("(?i)k", "\u212a"), (r"\x00", "\0")]
)
def test_a_regex_is_unicode(pattern: str, text: str) -> None:
    assert admits(regex(pattern))(text)
    assert re.fullmatch(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "code", "column"),
    [
        ("(a", ErrorCode.INVALID_CONSTRAINT, 1),
        ("a)", ErrorCode.INVALID_CONSTRAINT, 2),
        ("ab[c", ErrorCode.INVALID_CONSTRAINT, 3),
        ("*a", ErrorCode.INVALID_CONSTRAINT, 1),
        ("a{2,1}", ErrorCode.INVALID_CONSTRAINT, 2),
        (r"ab\p{Nope}", ErrorCode.INVALID_CONSTRAINT, 3),
        ("é😀(", ErrorCode.INVALID_CONSTRAINT, 3),
        (r"(?-u:\xff)", ErrorCode.UNSUPPORTED_CONSTRAINT, 1),
        ("(?=a)b", ErrorCode.UNSUPPORTED_CONSTRAINT, 1),
        ("a(?!b)", ErrorCode.UNSUPPORTED_CONSTRAINT, 2),
        ("(?<=a)b", ErrorCode.UNSUPPORTED_CONSTRAINT, 1),
        (r"(a)\1", ErrorCode.UNSUPPORTED_CONSTRAINT, 4),
        (r"\bfoo\b", ErrorCode.UNSUPPORTED_CONSTRAINT, 1),
        ("a^b", ErrorCode.INVALID_CONSTRAINT, None),
        ("(?m)^a$", ErrorCode.UNSUPPORTED_CONSTRAINT, 5),
        (r"[^\s\S]", ErrorCode.INVALID_CONSTRAINT, None),
        pytest.param("(limit", ErrorCode.INVALID_CONSTRAINT, 1),
        pytest.param("(not supported", ErrorCode.INVALID_CONSTRAINT, 1),
        pytest.param("Unsatisfiable(?=a)", ErrorCode.UNSUPPORTED_CONSTRAINT, 14),
    ],
)
def test_a_faulty_regex_is_refused_at_its_column(pattern: str, code: ErrorCode, column: int | None) -> None:
    compiled = COMPILER.compile(regex(pattern))
    assert is_sound(compiled)
    [error] = compiled.report.errors
    assert (error.code, error.pointer, error.column) == (code, "/pattern", column)
    assert error.line == (None if column is None else 1)


def test_a_fault_in_a_later_line_has_that_line() -> None:
    [error] = COMPILER.compile(regex("a\n(b")).report.errors
    assert (error.line, error.column) == (2, 1)


def test_a_syntax_error_is_not_told_as_an_empty_language() -> None:
    [error] = COMPILER.compile(regex("NoExtension(")).report.errors
    assert "group" in error.message


@pytest.mark.parametrize(
    ("pattern", "python"),
    [
        (r"\Aa\Z", "a"),
        (r"a\/b", "a/b"),
        (r"\u0061", "a"),
        ("(?<name>a)b", "ab"),
        ("(a|^)b", "a?b"),
        ("a(b|$)", "ab?"),
        ("a+?b*?", "a+b*"),
    ],
)
def test_common_forms_of_other_dialects_are_translated(pattern: str, python: str) -> None:
    texts = [*SHORT_TEXTS, "a/b", "b/a"]
    admitted = {dialect: admits(constraint("regex", pattern=pattern, dialect=dialect)) for dialect in ("rust", "ecma")}
    expected = [text for text in texts if re.fullmatch(python, text)]
    dialects = ["ecma"] if "A" in pattern else ["rust", "ecma"]
    for dialect in dialects:
        assert [text for text in texts if admitted[dialect](text)] == expected


@pytest.mark.parametrize(("text", "rust", "ecma"), [("\u0665", True, False), ("5", True, True)])
def test_a_dialect_says_what_a_class_means(text: str, rust: bool, ecma: bool) -> None:
    assert admits(constraint("regex", pattern=r"\d"))(text) == rust
    assert admits(constraint("regex", pattern=r"\d", dialect="ecma"))(text) == ecma


@pytest.mark.parametrize(
    ("text", "pointer", "place"),
    [
        (regex(".*END"), "/pattern", None),
        (regex("[^x]+ done$"), "/pattern", None),
        (lark('start: "a" /.*/ "end"'), "/grammar", (1, 12)),
        (lark('start: TEXT "end"\nTEXT: /(?s:.*)/'), "/grammar", (1, 8)),
    ],
)
def test_an_unbounded_string_before_a_forced_suffix_is_suspicious(text: str, pointer: str, place: tuple[int, int] | None) -> None:
    [warning] = COMPILER.compile(text).report.warnings
    assert (warning.code, warning.pointer) == ("suspicious", pointer)
    assert place is None or (warning.line, warning.column) == place


@pytest.mark.parametrize("text", [regex("[a-z]*END"), regex(r"a\.*END"), regex(".{0,9}END"), lark('start: /[a-z]*/ "1"'), lark(ARITHMETIC)])
def test_what_ends_by_itself_is_not_suspicious(text: str) -> None:
    assert COMPILER.compile(text).report.warnings == []


# Choices, judged by membership.

TRICKY = ["a", '"', "\\", "\n", "\r\n", "\t", "\0", "\x1f", "\x7f", "\x80", "é", "e\u0301", "\u2028", "\ufeff", "😀", "\U0010ffff"]
TRICKY += ['a"b', '\\"', "\\n", "\\u0041", "/a/", "a|b", '"i', "%json", "<|im_end|>", " a", "a ", " ", "//c", "#c", "${x}", "\u200d", "aa"]


@pytest.mark.parametrize("wanted", TRICKY, ids=ascii)
def test_one_choice_admits_itself_alone(wanted: str) -> None:
    admitted = admits(choice(wanted))
    others = [*TRICKY, "", wanted * 2, wanted + "x", "x" + wanted]
    assert [text for text in others if admitted(text)] == [text for text in others if text == wanted]


def test_choices_admit_each_and_no_mixture() -> None:
    admitted = admits(choice(*TRICKY))
    mixtures = [first + second for first, second in itertools.product(TRICKY[:8], repeat=2)]
    texts = [*TRICKY, "", *mixtures]
    assert [text for text in texts if admitted(text)] == [text for text in texts if text in TRICKY]


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5), st.text(max_size=6))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_any_choices_admit_themselves(choices: list[str], other: str) -> None:
    admitted = admits(choice(*choices))
    assert all(map(admitted, choices))
    assert admitted(other) == (other in choices)


@pytest.fixture(scope="module")
def real_tokenizer() -> Any:
    if not MODEL.is_dir():
        pytest.skip("no model: make setup makes it")
    from ananke_server.masking.tokenizer import model_tokenizer

    return model_tokenizer(str(MODEL))


def test_a_real_tokenizers_end_ends_a_choice(real_tokenizer: Any) -> None:
    compiler = Compiler(real_tokenizer)
    grammar = compiler.compile(choice("né😀\n", "<|im_end|>")).grammar
    assert grammar is not None
    assert compiler.satisfies(grammar, [*real_tokenizer.tokenize_str("né😀\n"), real_tokenizer.eos_token])
    assert compiler.satisfies(grammar, real_tokenizer.greedy_tokenize("<|im_end|>"))
    assert not compiler.satisfies(grammar, [real_tokenizer.eos_token])
    assert not compiler.satisfies_text(grammar, "né")


def test_a_special_tokens_name_is_only_text(real_tokenizer: Any) -> None:
    compiler = Compiler(real_tokenizer)
    grammar = compiler.compile(choice("a", "<|im_end|>")).grammar
    assert grammar is not None
    judged = [compiler.satisfies_text(grammar, text) for text in ("a", "<|im_end|>", "a<|im_end|>")]
    assert judged == [True, True, False]


# Grammars, judged by lark.


def test_a_grammar_admits_what_lark_parses() -> None:
    parser, admitted = Lark(ARITHMETIC), admits(lark(ARITHMETIC))
    texts = ["".join(letters) for length in range(1, 4) for letters in itertools.product("1+*()", repeat=length)]
    texts += ["1+1*(1+23)", "((1))*2", "1+(2*3", "1+2)", "12 + 3"]

    def parses(text: str) -> bool:
        try:
            return bool(parser.parse(text))
        except LarkError:
            return False

    assert [text for text in texts if admitted(text)] == [text for text in texts if parses(text)]


@pytest.mark.parametrize(
    ("grammar", "code", "place"),
    [
        ('start: "a"\n  | )', ErrorCode.INVALID_CONSTRAINT, (2, 5)),
        ('start: a\n\na: b | "d"', ErrorCode.INVALID_CONSTRAINT, (3, 4)),
        ('start: "a" B\nB: "c', ErrorCode.INVALID_CONSTRAINT, (2, 6)),
        ("start: A\n\nA: /a(/", ErrorCode.INVALID_CONSTRAINT, (3, 4)),
        ('start: "a"\nstart: "b"', ErrorCode.INVALID_CONSTRAINT, (2, 8)),
        ('start: "a"\n%import nope.X', ErrorCode.INVALID_CONSTRAINT, (2, 1)),
        ("start: X\n%declare X", ErrorCode.UNSUPPORTED_CONSTRAINT, (2, 1)),
        ("start: /(?=a)b/", ErrorCode.UNSUPPORTED_CONSTRAINT, (1, 8)),
        ('start: %json {"uniqueItems": true}', ErrorCode.UNSUPPORTED_CONSTRAINT, (1, 14)),
        ('start: %json {"not": {}}', ErrorCode.INVALID_CONSTRAINT, (1, 14)),
        ('start: "a" %json {"type": \n "integer"} "b"\na: )', ErrorCode.INVALID_CONSTRAINT, (3, 4)),
        ('start: %json {"type": "integer"} b', ErrorCode.INVALID_CONSTRAINT, (1, 8)),
        ('start: %json {"a": 1, "a": 2}', ErrorCode.INVALID_CONSTRAINT, (1, 14)),
        ('start: %json {"a": 1', ErrorCode.INVALID_CONSTRAINT, (1, 14)),
        ("start: %json 3", ErrorCode.INVALID_CONSTRAINT, (1, 14)),
        ('start: %json {"type": "string"}\n%ignore / /', ErrorCode.UNSUPPORTED_CONSTRAINT, (2, 1)),
        ('begin: "a"', ErrorCode.INVALID_CONSTRAINT, (None, None)),
        ("", ErrorCode.INVALID_CONSTRAINT, (None, None)),
        ("start: start", ErrorCode.INVALID_CONSTRAINT, (1, 1)),
        ('start: "a" start', ErrorCode.INVALID_CONSTRAINT, (1, 1)),
        ('// x\n?start: (a | b "x")+\na: b\nb: a ["c"] | "d" a{2}', ErrorCode.INVALID_CONSTRAINT, (2, 1)),
        ("start: A\nA: /a/ & /b/", ErrorCode.INVALID_CONSTRAINT, (1, 1)),
        ('\nstart: "x" (b | C)\nb: C C\nC: D "a"\nD: /a*/ & /b+/', ErrorCode.INVALID_CONSTRAINT, (2, 1)),
        ("start: @other", ErrorCode.INVALID_CONSTRAINT, (None, None)),
        pytest.param('start: "limit" )', ErrorCode.INVALID_CONSTRAINT, (1, 16)),
    ],
)
def test_a_faulty_grammar_is_refused_at_its_line_and_column(grammar: str, code: ErrorCode, place: tuple[int | None, int | None]) -> None:
    compiled = COMPILER.compile(lark(grammar))
    assert is_sound(compiled)
    [error] = compiled.report.errors
    assert (error.code, error.pointer, (error.line, error.column)) == (code, "/grammar", place)


def test_an_inline_schema_is_enforced_as_a_schema_is() -> None:
    admitted = admits(lark('start: "<" %json {"type": "object", "properties": {"a": {"type": "integer"}}} ">" j0_start\nj0_start: "j"'))
    outputs = ["<{}>j", '<{"a": 1}>j', '<{"b":"x"}>j', '<{"a":"x"}>j', '<{"\\u0061":"x"}>j', '<{"a":1,"a":1}>j', "{}", "<>j"]
    assert [output for output in outputs if admitted(output)] == outputs[:3]


@pytest.mark.parametrize("blank", ["", " ", "\n\t"])
@pytest.mark.parametrize(
    "smuggled", ['{"grammars": [{"json_schema": {"x-guidance": {"lenient": true}}}]}', '{"grammars": [{"lark_grammar": "start: /.*/"}]}']
)
def test_llguidances_own_json_is_no_lark(blank: str, smuggled: str) -> None:
    [error] = COMPILER.compile(lark(blank + smuggled)).report.errors
    assert error.code == ErrorCode.INVALID_CONSTRAINT


# JSON schemas, judged by jsonschema.


@lru_cache
def values() -> tuple[Any, ...]:
    scalars = [None, True, False, 0, 1, 5, -3, 10**15, 0.5, -1.25, "", "a", "ab", "b", "abc", 'é"\\\n😀', "2024-02-29", "2024-13-01"]
    arrays = [[], [1], ["a"], [1, "a"], [1, 2], [1, 2, 3], [[1]], [{}]]
    objects = [
        {},
        {"a": 1},
        {"a": "x"},
        {"a": 1, "b": "y"},
        {"b": 2},
        {"a": {"a": {"a": 1}}},
        {"a": None},
        {"a": 1, "kind": "x"},
        {"x-guidance": 1},
    ]
    return (*scalars, *arrays, *objects)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"type": "integer"},
        {"type": ["integer", "null"], "minimum": 1},
        {"minimum": 1},
        {"type": "number", "exclusiveMinimum": -1.25, "maximum": 1},
        {"type": "integer", "multipleOf": 5},
        {"type": "string", "minLength": 1, "maxLength": 2},
        {"type": "string", "pattern": "^a"},
        {"type": "string", "pattern": "b"},
        {"type": "string", "format": "date"},
        {"enum": [1, "a", None, [1], {"a": 1}]},
        {"const": 'é"\\\n😀'},
        {"const": None},
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
        {"$schema": DRAFT_7, "type": "array", "items": [{"type": "integer"}], "additionalItems": False},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object", "patternProperties": {"^a": {"type": "integer"}}},
        {"type": "object", "maxProperties": 1},
        {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        {"oneOf": [{"type": "integer"}, {"type": "string"}]},
        {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"required": ["a"]}], "type": "object"},
        {"$ref": "#/$defs/tree", "$defs": {"tree": {"properties": {"a": {"$ref": "#/$defs/tree"}}, "type": ["object", "integer"]}}},
        {"properties": {"x-guidance": {"type": "string"}}},
        {"const": {"x-guidance": 1}},
        {"properties": {"maxItems": {"type": "integer"}, "$ref": {"type": "string"}}},
    ],
    ids=json.dumps,
)
def test_a_schema_admits_what_jsonschema_holds_valid(value: dict[str, Any]) -> None:
    validator = (Draft7Validator if "$schema" in value else Draft202012Validator)(value, format_checker=Draft202012Validator.FORMAT_CHECKER)
    admitted = admits(schema(value))
    judged = [(instance, admitted(json.dumps(instance, ensure_ascii=False)), validator.is_valid(instance)) for instance in values()]
    assert [instance for instance, taken, valid in judged if taken != valid] == []


def random_output(grammar: str, choose: random.Random, limit: int = 150) -> bytes | None:
    """What a mask admits when bytes are drawn from it at random; None where it is not at its end within the limit."""
    matcher = new_matcher(TOKENIZER, grammar)
    output = bytearray()
    while len(output) < limit:
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        allowed = [token for token in range(256) if mask >> token & 1]
        if mask >> TOKENIZER.eos_token & 1 and (not allowed or choose.random() < 0.4):
            return bytes(output)
        plain = [token for token in allowed if chr(token) in 'abc0123456789"{}[],:.-']
        closing = [token for token in allowed if chr(token) in '"}]']
        drawn = choose.choice(closing if closing and choose.random() < 0.4 else plain or allowed)
        matcher.consume_token(drawn)
        output.append(drawn)
    return None


@pytest.mark.parametrize(
    "value",
    [
        {"type": "number", "minimum": 0.5, "maximum": 1.25},
        {"type": "integer", "minimum": -7, "exclusiveMaximum": 113, "multipleOf": 3},
        {"type": "string", "minLength": 2, "maxLength": 5, "pattern": "^a.*b$"},
        {"type": "array", "items": {"type": ["integer", "string"]}, "minItems": 1, "maxItems": 3},
        {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", 1]}}, "required": ["b"]},
        {"type": "object", "patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
        {"allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"minimum": 3, "maxLength": 2}]},
    ],
    ids=json.dumps,
)
def test_whatever_a_mask_lets_through_is_valid(value: dict[str, Any]) -> None:
    grammar = COMPILER.compile(schema(value)).grammar
    assert grammar is not None
    choose = random.Random(7)
    outputs = [output for _ in range(40) if (output := random_output(grammar, choose)) is not None]
    assert len(outputs) > 10
    assert [output for output in outputs if not Draft202012Validator(value).is_valid(json.loads(output))] == []


@pytest.mark.parametrize(
    ("value", "output"),
    [
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"a":1,"a":"x"}'),
        ({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}, '{"\\u0061":"x"}'),
        ({"type": "string", "pattern": "^[^a]$"}, '"\\u0061"'),
        ({"type": "string", "maxLength": 1}, '"\\ud83d\\ud83d"'),
        ({"type": "string"}, '"\\ud800"'),
        ({"type": "number"}, "NaN"),
        pytest.param({"const": 2**53 + 1}, str(2**53)),
        pytest.param({"type": "integer", "minimum": 2**53 + 1, "maximum": 2**53 + 3}, str(2**53)),
        pytest.param({"prefixItems": [{"type": "integer"}], "additionalItems": False}, '[""]'),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_an_invalid_output_is_not_admitted(value: dict[str, Any], output: str) -> None:
    """A refusal of the schema would do too: what must not be is an invalid output that passes for valid."""
    compiled = COMPILER.compile(schema(value))
    assert compiled.grammar is None or not COMPILER.satisfies_text(compiled.grammar, output)


# Invalid outputs that llguidance's mask admits: escaped names that pass for other properties, repeated names that count twice, a
# bound that is forgotten, a date that the calendar does not have.
MASK_HOLES: list[tuple[dict[str, Any], str]] = [
    ({"properties": {"a": {"type": "integer"}}}, '{"\\u0061":"x"}'),
    ({"properties": {"a/b": {"type": "integer"}}}, '{"a\\/b":"x"}'),
    ({"patternProperties": {"^a": {"type": "integer"}}}, '{"\\u0061b":"x"}'),
    ({"type": "object", "minProperties": 2}, '{"b":1,"b":2}'),
    ({"type": "number", "exclusiveMinimum": 10, "exclusiveMaximum": 10.5}, "10"),
    ({"type": "string", "format": "date"}, '"2023-02-29"'),
]


@pytest.mark.parametrize(("value", "output"), MASK_HOLES)
@pytest.mark.xfail(strict=True, reason="llguidance 1.7.6; a version that closes one of these ends the need to verify it")
def test_the_mask_admits_no_invalid_output(value: dict[str, Any], output: str) -> None:
    compiled = COMPILER.compile(schema(value))
    assert compiled.grammar is None or not COMPILER.satisfies_text(compiled.grammar, output)


@pytest.mark.parametrize(("value", "output"), MASK_HOLES)
def test_an_invalid_output_that_the_mask_admits_is_not_called_satisfied(value: dict[str, Any], output: str) -> None:
    assert fault_of(schema(value), output) is not None


@pytest.mark.parametrize(
    ("value", "output"),
    [
        ({"type": "object", "minProperties": 2}, '{"b":1,"c":2}'),
        ({"type": "string", "format": "date"}, '"2024-02-29"'),
        ({"type": "string", "pattern": r"^\p{Lu}+$"}, '"ABC"'),
        (True, "[1]"),
    ],
)
def test_verification_takes_what_is_valid(value: Any, output: str) -> None:
    assert fault_of(schema(value), output) is None


@pytest.mark.parametrize(
    ("whitespace", "outputs"),
    [("flexible", ['{"a":[1,2]}', '{"a": [1, 2]}', '{\n  "a": [\n    1\n  ]\n}']), ("compact", ['{"a":[1,2]}'])],
)
def test_whitespace_stands_between_tokens_where_it_is_allowed(whitespace: str, outputs: list[str]) -> None:
    value = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}, "required": ["a"]}
    admitted = admits(schema(value, whitespace=whitespace))
    texts = ['{"a":[1,2]}', '{"a": [1, 2]}', '{\n  "a": [\n    1\n  ]\n}', ' {"a":[1]}', '{"a":[1]}\n']
    assert [text for text in texts if admitted(text)] == outputs


@pytest.mark.parametrize(
    ("value", "code", "pointers"),
    [
        ({"type": "banana"}, ErrorCode.INVALID_CONSTRAINT, {"/schema/type"}),
        ({"type": "banana", "minimum": "x", "required": "a", "properties": []}, ErrorCode.INVALID_CONSTRAINT, None),
        ({"properties": {"a/b~": {"minLength": -1}}}, ErrorCode.INVALID_CONSTRAINT, {"/schema/properties/a~1b~0/minLength"}),
        ({"anyOf": [{}, {"pattern": 3}]}, ErrorCode.INVALID_CONSTRAINT, {"/schema/anyOf/1/pattern"}),
        ({"minItems": True}, ErrorCode.INVALID_CONSTRAINT, {"/schema/minItems"}),
        ({"$schema": 3}, ErrorCode.INVALID_CONSTRAINT, {"/schema/$schema"}),
        ({"$ref": "#/$defs/nope"}, ErrorCode.INVALID_CONSTRAINT, {"/schema"}),
        ({"$ref": "http://example.com/x"}, ErrorCode.INVALID_CONSTRAINT, {"/schema"}),
        ({"$ref": "#"}, ErrorCode.INVALID_CONSTRAINT, {"/schema"}),
        ({"pattern": "("}, ErrorCode.INVALID_CONSTRAINT, {"/schema"}),
        ({"type": "integer", "minimum": 5, "maximum": 3}, ErrorCode.INVALID_CONSTRAINT, {"/schema"}),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, ErrorCode.INVALID_CONSTRAINT, {"/schema"}),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, ErrorCode.INVALID_CONSTRAINT, {"/schema"}),
        ({"enum": []}, ErrorCode.INVALID_CONSTRAINT, {"/schema"}),
        ({"x-guidance": {"lenient": True}}, ErrorCode.INVALID_CONSTRAINT, {"/schema/x-guidance"}),
        ({"not": {}}, ErrorCode.UNSUPPORTED_CONSTRAINT, {"/schema"}),
        ({"oneOf": [{"minimum": 1}, {"maximum": 5}]}, ErrorCode.UNSUPPORTED_CONSTRAINT, {"/schema"}),
        ({"format": "no-such-format"}, ErrorCode.UNSUPPORTED_CONSTRAINT, {"/schema"}),
        ({"pattern": "(?=a)"}, ErrorCode.UNSUPPORTED_CONSTRAINT, {"/schema"}),
        ({"minItems": 10**9}, ErrorCode.CONSTRAINT_TOO_LARGE, {"/schema/minItems"}),
        ({"maxItems": 100_000}, ErrorCode.CONSTRAINT_TOO_LARGE, {"/schema/maxItems"}),
        ({"maxItems": MAX_ARRAY_BOUND + 1}, ErrorCode.CONSTRAINT_TOO_LARGE, {"/schema/maxItems"}),
        ({"items": {"anyOf": [{"minItems": 1e10}]}}, ErrorCode.CONSTRAINT_TOO_LARGE, {"/schema/items/anyOf/0/minItems"}),
        (
            {"properties": {f"p{i}": {"items": {"minimum": i}, "maxItems": 9000} for i in range(70)}},
            ErrorCode.CONSTRAINT_TOO_LARGE,
            {"/schema"},
        ),
        pytest.param({"type": "object", "properties": {"a": {}}, "minProperties": 2}, ErrorCode.UNSUPPORTED_CONSTRAINT, {"/schema"}),
        pytest.param({"patternProperties": {"^a": {}, "b$": {"type": "string"}}}, ErrorCode.UNSUPPORTED_CONSTRAINT, {"/schema"}),
        pytest.param({"type": "string", "maxLength": 10**18}, ErrorCode.CONSTRAINT_TOO_LARGE, {"/schema/maxLength"}),
        pytest.param({"type": "integer", "minimum": 1e20}, ErrorCode.CONSTRAINT_TOO_LARGE, {"/schema/minimum"}),
        pytest.param({"$schema": "http://example.com/x"}, ErrorCode.UNSUPPORTED_CONSTRAINT, {"/schema/$schema"}),
    ],
    ids=lambda value: json.dumps(value)[:80] if isinstance(value, dict) else None,
)
def test_a_schema_that_cannot_be_enforced_is_refused_with_its_place(value: object, code: ErrorCode, pointers: set[str] | None) -> None:
    begun = time.process_time()
    compiled = COMPILER.compile(schema(value))
    assert is_sound(compiled)
    assert time.process_time() - begun < 3
    assert {error.code for error in compiled.report.errors} == {code}
    found = {error.pointer for error in compiled.report.errors}
    assert found == (pointers or {"/schema/type", "/schema/minimum", "/schema/required", "/schema/properties"})


def test_an_array_bound_at_the_limit_is_taken() -> None:
    admitted = admits(schema({"type": "array", "items": {"const": 1}, "minItems": 3, "maxItems": MAX_ARRAY_BOUND}))
    assert [length for length in range(6) if admitted(json.dumps([1] * length))] == [3, 4, 5]


@pytest.mark.parametrize(
    "keyword",
    [
        "not",
        "if",
        "then",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "contains",
        "propertyNames",
        "unevaluatedProperties",
        "unevaluatedItems",
        "$dynamicRef",
        "$recursiveRef",
        "uniqueItems",
        "minContains",
    ],
)
@pytest.mark.parametrize("wrap", ["{}", '{{"properties": {{"a": {}}}}}', '{{"x": 1, "$ref": "#/$defs/d", "$defs": {{"d": {}}}}}'])
def test_a_keyword_that_masks_cannot_enforce_is_never_ignored(keyword: str, wrap: str) -> None:
    samples: dict[str, object] = {"dependentRequired": {"a": ["b"]}, "uniqueItems": True, "minContains": 1, "dependencies": {"a": ["b"]}}
    samples |= {"dependentSchemas": {"a": {"type": "string"}}, "$dynamicRef": "#", "$recursiveRef": "#"}
    inner = {keyword: samples.get(keyword, {"type": "string"})}
    compiled = COMPILER.compile(schema(json.loads(wrap.format(json.dumps(inner)))))
    [error] = compiled.report.errors
    assert error.code == ErrorCode.UNSUPPORTED_CONSTRAINT
    assert keyword in error.message


@pytest.mark.parametrize(
    "weakened",
    [
        schema({"x-guidance": {"lenient": True}, "not": {}}),
        schema({"properties": {"a": {"x-guidance": {"lenient": True}, "not": {}}}}),
        schema({"allOf": [{"x-guidance": {"lenient": True}, "not": {}}]}),
        lark('start: %json {"x-guidance": {"lenient": true}, "not": {}}'),
        lark('start: %json {"type": "banana"}'),
        pytest.param(lark(r'start: %json {"x\u002dguidance": {"lenient": true}, "not": {}}')),
        pytest.param(lark('start[max_tokens=1]: "a" "b" "c"')),
        pytest.param(lark('start[temperature=0.1]: "a"')),
        pytest.param(lark('%llguidance {"allow_invalid_utf8": true}\nstart: /a/')),
        pytest.param(lark('start: %json {"minimum": 1, "minimun": 2, "type": ["integer", "integer"]}')),
        pytest.param(schema({"$schema": "http://json-schema.org/draft-04/schema#", "type": "integer"})),
        pytest.param(schema({"$schema": "https://json-schema.org/draft/next/schema", "type": "integer"})),
        pytest.param('{"type": "json_schema", "schema": {"minimum": 5, "minimum": 0}}'),
        pytest.param('{"type": "regex", "pattern": "a", "pattern": ".*"}'),
    ],
)
def test_nothing_in_a_constraint_switches_enforcement_off(weakened: str) -> None:
    assert not COMPILER.compile(weakened).report.accepted


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
    alone = subprocess.run([sys.executable, "-c", COMPILE_ALONE], input=BOMBS[name], text=True, capture_output=True, timeout=30)
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
