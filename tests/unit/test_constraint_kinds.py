"""Regular expressions, choices and grammars, judged by validators that share no code with llguidance: ``re``, membership and ``lark``."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from constraint_support import COMPILER, admits, choice, constraint, is_sound, lark, regex
from hypothesis import given, settings
from hypothesis import strategies as st
from lark import Lark
from lark.exceptions import LarkError

from ananke_client.errors import ErrorCode
from ananke_server.constraints import Compiler

MODEL = Path(__file__).parents[2] / ".ananke/models/SmolLM2-135M-Instruct"

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
