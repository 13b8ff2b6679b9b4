"""What GBNF grammars mean: llama.cpp's notation, judged by ``re``, ``json`` and lists of texts; faults with line and column."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from languages import COMPILER, language, texts_over

from ananke_client.errors import ErrorCode


def gbnf(grammar: str) -> str:
    return json.dumps({"type": "grammar", "syntax": "gbnf", "grammar": grammar})


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        ('root ::= "ab"', "ab"),
        ('root ::= ""', ""),
        ("root ::=", ""),
        ('root ::= "a" | "b" | ', "a|b|"),
        ('root ::= "a" |\n  "b"', "a|b"),
        ('root ::= ("a"\n "b" # comment\n | # other\n "1")', "ab|1"),
        ('root ::= ("a" | "b")* "1"?', "[ab]*1?"),
        ('root ::= "ab"+', "(ab)+"),
        ('root ::= "a"{2} "b"{1,2} "1"{1,}', "a{2}b{1,2}1{1,}"),
        ('root ::= "a"{0,2}', "a{0,2}"),
        ('root ::= "a"{ 1 , 2 }', "a{1,2}"),
        ('root ::= "a"*?', "a*"),
        ("root ::= [ab]*", "[ab]*"),
        ("root ::= [^a]*", "[^a]*"),
        ("root ::= [^ab\\n]", "[^ab\n]"),
        ("root ::= [a-b1]+", "[ab1]+"),
        ("root ::= [a-] [-b]", "[a-][-b]"),
        ("root ::= [b\\-a]", "[b\\-a]"),
        ("root ::= [\\]a\\[]", "[\\]a\\[]"),
        ("root ::= [&&ab]", "[&ab]"),
        ("root ::= [a~~b]", "[ab~]"),
        ('root ::= "\\x61\\u0062\\U00000031"', "ab1"),
        ("root ::= [\\x61-\\u0062]", "[ab]"),
        ('root ::= "\\n" "\\""', '\n"'),
        ("root ::= . .", "(?s:..)"),
        ("root ::= .*", "(?s:.*)"),
        ("root ::= [ab]* [a] [b]", "[ab]*ab"),
        ('root ::= x "b"\nx ::= [ab]*', "[ab]*b"),
        ('root ::= "ab" "1" | [ab] "b" "a"', "ab1|[ab]ba"),
        ('root ::= x x\nx ::= "a" | y\ny ::= "b" | "1"', "[ab1]{2}"),
        ('root ::= dataType check-mate\ndataType ::= "a"\nDATA-TYPE ::= "n"\ncheck-mate ::= "b"', "ab"),
        ('root ::= A a\nA ::= "a"\na ::= "b"', "ab"),
        ('a ::= "b"\nroot ::= a+', "b+"),
        ('root ::= "a" root | "b"', "a*b"),
        ('root ::= root "a" | "b"', "ba*"),
        ('root ::= "a" root "b" root | ', "(ab)*|a(ab)b(ab)*|aabb"),
        ('root ::= ws "1" ws\nws ::= ([ \\n] ws)?', "[ \n]*1[ \n]*"),
        ('root ::= "ab" x | [ab] "b" "a"\nx ::= "1" x | ', "ab1*|[ab]ba"),
        ('\r\n# head\r\nroot ::= "a" # tail\r\n\r\n', "a"),
        ('root ::= ((((("a")))))', "a"),
        ('root ::= ("a" | ("b" "1"?)*)', "a|(b1?)*"),
    ],
)
def test_a_grammar_admits_what_it_means(grammar: str, pattern: str) -> None:
    texts = texts_over("ab1", 4) + texts_over('a\n "1', 3) + texts_over("[]&~-abn", 2)
    assert language(gbnf(grammar), texts) == {text for text in texts if re.fullmatch(pattern, text)}


@pytest.mark.parametrize(
    ("grammar", "taken", "refused"),
    [
        ("root ::= [ぁ-ゟ]+", ["ひ", "ひらがな"], ["カ", "a", ""]),
        ('root ::= "é😀"', ["é😀"], ["é", "e\u0301😀"]),
        ("root ::= [^a]", ["😀", "\u00e9", "\n", "\0"], ["a", "😀😀"]),
        ("root ::= [\\U0001F600]", ["😀"], ["😁"]),
        ('root ::= "\\x80"', ["\x80"], ["\u20ac"]),
        ('root ::= "a/b" [/]', ["a/b/"], ["a/b"]),
        ('root ::= "<|im_end|>"', ["<|im_end|>"], ["<"]),
        (r'root ::= "\\" [\\] "\t"', ["\\\\\t"], ["\\\t"]),
    ],
)
def test_any_character_can_be_said(grammar: str, taken: list[str], refused: list[str]) -> None:
    assert language(gbnf(grammar), taken + refused) == set(taken)


# llama.cpp's grammars, retyped small.

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"""
ARITHMETIC = r"""
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"""
LIST = r"""
root ::= item+
# Excludes various line break characters
item ::= "- " [^\r\n\x0b\x0c\x85\u2028\u2029]+ "\n"
"""
CHESS = r"""
root ::= (
    "1. " move " " move "\n"
    ([1-9] [0-9]? ". " move " " move "\n")+
)
move ::= (pawn | nonpawn | castle) [+#]?
# piece type, optional file/rank, optional capture, dest file & rank
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
# optional file & capture, dest file & rank, optional promotion
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?
"""


@pytest.mark.parametrize(
    ("grammar", "taken", "refused"),
    [
        (
            JSON,
            ["{}", '{"a": [1, -2.5e+1, true, null]}', '{"a":{"b":"x\\n\\u00e9é"}} ', '{ "a":"",\n\t"b":[]}'],
            ["", "[]", '{"a":}', '{"a":1,}', '{"a":"\n"}', '{"a":"\\x"}', "{a:1}", '{"a":01}', "{}{}"],
        ),
        (ARITHMETIC, ["a=b\n", "1+2*(x1 -3)=7\n", "a= b \n\nc =d\n"], ["a=b", "=b\n", "1- 2=3\n", "1+=2\n", "a=b\nc", "A=b\n"]),
        (LIST, ["- a\n", "- a b\n- - c\n"], ["", "-a\n", "- \n", "- a", "- a\u2028\n", "- a\nb\n"]),
        (
            CHESS,
            ["1. e4 e5\n2. Nf3 Nc6\n", "1. d4 O-O-O+\n10. exd8=Q# Rh1\n"],
            ["1. e4 e5\n", "1. e4\n2. d4 d5\n", "1. e9 e5\n2. a1 a2\n", "2. e4 e5\n2. a1 a2\n"],
        ),
    ],
    ids=["json", "arithmetic", "list", "chess"],
)
def test_the_grammars_of_llama_cpp_mean_what_they_say(grammar: str, taken: list[str], refused: list[str]) -> None:
    assert language(gbnf(grammar), taken + refused) == set(taken)


@given(
    st.text('{}[]":,1a \n', max_size=9)
    | st.recursive(st.integers(0, 9) | st.text('a\\"é', max_size=2), lambda v: st.lists(v, max_size=2)).map(lambda v: json.dumps({"a": v}))
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_json_by_its_grammar_is_json(text: str) -> None:
    taken = text in language(gbnf(JSON), [text])
    try:
        valid = isinstance(json.loads(text), dict)
    except ValueError:
        valid = False
    spaced = re.search(r"^\s|  |\n\n|\s\n", text) is not None
    assert taken <= valid
    assert taken or not valid or spaced


# Faults.


@pytest.mark.parametrize(
    ("grammar", "code", "places"),
    [
        ("", ErrorCode.INVALID_CONSTRAINT, [(None, None)]),
        ('start ::= "a"', ErrorCode.INVALID_CONSTRAINT, [(None, None)]),
        ('root ::= "a', ErrorCode.INVALID_CONSTRAINT, [(1, 10)]),
        ("root ::= [a", ErrorCode.INVALID_CONSTRAINT, [(1, 10)]),
        ("root ::= []", ErrorCode.INVALID_CONSTRAINT, [(1, 10)]),
        ("root ::= [^]", ErrorCode.INVALID_CONSTRAINT, [(1, 10)]),
        ("root ::= [b-a]", ErrorCode.INVALID_CONSTRAINT, [(1, 11)]),
        ("root ::= [^\\x00-\\U0010FFFF]", ErrorCode.INVALID_CONSTRAINT, [(1, 10)]),
        ('root ::=\n  ("a"\n', ErrorCode.INVALID_CONSTRAINT, [(2, 3)]),
        ('root ::= "a" )', ErrorCode.INVALID_CONSTRAINT, [(1, 14)]),
        ('root ::= "a" "\\q"', ErrorCode.INVALID_CONSTRAINT, [(1, 15)]),
        ('root ::= "\\x6"', ErrorCode.INVALID_CONSTRAINT, [(1, 11)]),
        ('root ::= "\\uD800"', ErrorCode.INVALID_CONSTRAINT, [(1, 11)]),
        ('root ::= "\\U00110000"', ErrorCode.INVALID_CONSTRAINT, [(1, 11)]),
        ("root ::= *", ErrorCode.INVALID_CONSTRAINT, [(1, 10)]),
        ('root ::= "a"{}', ErrorCode.INVALID_CONSTRAINT, [(1, 13)]),
        ('root ::= "a"{2,1}', ErrorCode.INVALID_CONSTRAINT, [(1, 13)]),
        ('root = "a"', ErrorCode.INVALID_CONSTRAINT, [(1, 6)]),
        ('root: "a"', ErrorCode.INVALID_CONSTRAINT, [(1, 5)]),
        ('root ::= "a"\n  "b"', ErrorCode.INVALID_CONSTRAINT, [(2, 3)]),
        ('root ::= "a"\nroot ::= "b"', ErrorCode.INVALID_CONSTRAINT, [(2, 1)]),
        ("root ::= a b\nc ::= d", ErrorCode.INVALID_CONSTRAINT, [(1, 10), (1, 12), (2, 7)]),
        ("root ::= root", ErrorCode.INVALID_CONSTRAINT, [(1, 1)]),
        ('# x\nroot ::= "a" y\ny ::= root', ErrorCode.INVALID_CONSTRAINT, [(2, 1)]),
        ("root ::= a{3}\na ::= a | a", ErrorCode.INVALID_CONSTRAINT, [(1, 1)]),
        ("root ::= !<think>", ErrorCode.UNSUPPORTED_CONSTRAINT, [(1, 10)]),
        ("root ::= <a b>", ErrorCode.INVALID_CONSTRAINT, [(1, 10)]),
        ('root ::= "a"{100000000}', ErrorCode.CONSTRAINT_TOO_LARGE, [(1, 13)]),
        ('root ::= "a"{1,' + "9" * 5000 + "}", ErrorCode.CONSTRAINT_TOO_LARGE, [(1, 13)]),
        ("root ::= " + "(" * 500, ErrorCode.CONSTRAINT_TOO_LARGE, [(1, 30)]),
        ("\n".join(["root ::= r1", *(f'r{i} ::= "a" | r{i + 1}' for i in range(1, 3000))]), ErrorCode.CONSTRAINT_TOO_LARGE, [(1001, 1)]),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_a_fault_is_refused_at_its_line_and_column(grammar: str, code: ErrorCode, places: list[tuple[int | None, int | None]]) -> None:
    errors = COMPILER.compile(gbnf(grammar)).report.errors
    assert [(error.code, error.pointer, (error.line, error.column)) for error in errors] == [(code, "/grammar", place) for place in places]


@given(st.text('ro:=| "ab[]^-()*+?{}12,\\x<>!.#\n', max_size=25))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_text_has_a_report(text: str) -> None:
    report = COMPILER.compile(gbnf(f"root ::= {text}")).report
    assert report.accepted or all(error.message and error.code in set(ErrorCode) - {ErrorCode.INTERNAL} for error in report.errors)


# Tokens.


def test_tokens_are_tokens() -> None:
    assert language(gbnf('root ::= <[97]> !<[97]>* <[97]> "b"'), texts_over("ab", 4)) == {"aab", "abab"}
    assert language(gbnf("root ::= !<[97]>*"), texts_over("ab", 2)) == {"", "b", "bb"}


def test_that_a_token_wins_over_a_character_is_said() -> None:
    report = COMPILER.compile(gbnf('root ::= <[97]> "b"')).report
    assert [warning.code for warning in report.warnings] == ["narrowed"]
    assert language(gbnf('root ::= <[97]>* "a"'), texts_over("ab", 3)) == set()


def test_a_token_that_the_model_lacks_is_refused() -> None:
    for grammar in ("root ::= <[5000]>", "root ::= <|nonsense|>"):
        [error] = COMPILER.compile(gbnf(grammar)).report.errors
        assert (error.code, error.pointer) == (ErrorCode.INVALID_CONSTRAINT, "/grammar")


def test_a_grammar_without_recursion_is_one_lexeme() -> None:
    """Masks of one lexeme cost a fraction of those of a grammar that is parsed by the character."""
    grammar = COMPILER.compile(gbnf(CHESS)).grammar
    assert grammar is not None
    assert "start: START" in grammar
    assert "start: START" not in (COMPILER.compile(gbnf(JSON)).grammar or "")
