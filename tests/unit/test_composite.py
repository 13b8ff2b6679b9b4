"""What composites promise: any admits the union of its members' outputs, all their intersection, sequence their concatenations.

Members are judged by ``re``, ``json`` and plain membership, composites of them by set operations over all short texts.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from languages import COMPILER, TOKENIZER, admitted, language, texts_over

from ananke_client import ConstraintSpec, parse_constraint
from ananke_client.errors import ErrorCode
from ananke_server.constraints import Compiler
from ananke_server.constraints.limits import Limits
from ananke_server.masking.program import Branch, Leaf, from_text

TEXTS = texts_over('ab1"', 5)


@dataclass(frozen=True)
class Judged:
    """A constraint beside an independent judge of its outputs."""

    constraint: dict[str, Any]
    takes: Callable[[str], bool]

    def __str__(self) -> str:
        return json.dumps(self.constraint)


def regex(pattern: str) -> Judged:
    return Judged({"type": "regex", "pattern": pattern}, lambda text: re.fullmatch(pattern, text) is not None)


def choice(*choices: str) -> Judged:
    return Judged({"type": "choice", "choices": list(choices)}, lambda text: text in choices)


def schema(value: Any, valid: Callable[[Any], bool]) -> Judged:
    def takes(text: str) -> bool:
        try:
            loaded = json.loads(text)
        except ValueError:
            return False
        return text == text.strip() and valid(loaded)

    return Judged({"type": "json_schema", "schema": value}, takes)


def grammar(text: str, pattern: str, syntax: str = "lark") -> Judged:
    """A grammar whose language a pattern can say."""
    return Judged({"type": "grammar", "syntax": syntax, "grammar": text}, lambda output: re.fullmatch(pattern, output) is not None)


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def composite(mode: str, *members: Judged) -> Judged:
    def any_takes(text: str) -> bool:
        return any(member.takes(text) for member in members)

    def all_take(text: str) -> bool:
        return all(member.takes(text) for member in members)

    def split(text: str, rest: tuple[Judged, ...] = members) -> bool:
        if not rest:
            return text == ""
        return any(rest[0].takes(text[:cut]) and split(text[cut:], rest[1:]) for cut in range(len(text) + 1))

    judges = {"any": any_takes, "all": all_take, "sequence": split}
    return Judged({"type": "composite", "mode": mode, "constraints": [member.constraint for member in members]}, judges[mode])


INTEGER = schema({"type": "integer"}, is_integer)
STRING = schema({"type": "string"}, lambda value: isinstance(value, str))
SHORT = schema({"type": "string", "maxLength": 1}, lambda value: isinstance(value, str) and len(value) < 2)
ENUM = schema({"enum": ["a", 1, "b1", 11]}, lambda value: value in ["a", 1, "b1", 11] and value is not True)
EITHER = schema({"type": ["integer", "string"]}, lambda value: isinstance(value, str) or is_integer(value))
NESTED = grammar('start: "a" start "b" | "1"', "a{0}1b{0}|a{1}1b{1}|a{2}1b{2}")
TOKENS = grammar('start: WORD ("1" WORD)*\nWORD: /[ab]+/', "[ab]+(1[ab]+)*")
GBNF = grammar('root ::= [ab]* "b1"', "[ab]*b1", "gbnf")
RECURSIVE_GBNF = grammar('root ::= "a" root | "ab" | "1"', "a*(ab|1)", "gbnf")
SPACED = grammar("start: A A\nA: /1/\n%ignore /a/", "1a*1")
MEMBERS = [
    *(
        regex("a*"),
        regex("ab"),
        regex("a*b"),
        regex("[ab]*"),
        regex("a?"),
        regex("(?:ab|1)*"),
        regex('"[^"]*"?'),
        regex('[^"]*'),
        regex(""),
    ),
    *(choice("ab"), choice("a", "ab", "b1"), choice('"', "1"), choice("a1", "1a")),
    *(INTEGER, STRING, SHORT, ENUM, EITHER, NESTED, TOKENS, GBNF, RECURSIVE_GBNF),
]


def judged_by_hand(judged: Judged) -> set[str]:
    return {text for text in TEXTS if judged.takes(text)}


@pytest.mark.parametrize("member", [*MEMBERS, SPACED], ids=str)
def test_the_members_themselves_are_judged_alike(member: Judged) -> None:
    assert language(str(member), TEXTS) == judged_by_hand(member)


NAMED = [
    composite("sequence", regex("a*"), regex("ab")),
    composite("sequence", regex("a*"), regex("a*"), regex("b")),
    composite("sequence", choice("a", "ab"), STRING, regex("b*")),
    composite("sequence", choice("a"), INTEGER, regex("[ab]*")),
    composite("sequence", STRING, STRING),
    composite("sequence", regex("a?"), regex("b?"), STRING, regex("1?")),
    composite("sequence", composite("any", STRING, choice("b")), regex("1")),
    composite("sequence", composite("sequence", regex("a"), STRING), composite("sequence", regex("a?"), regex("b"))),
    composite("sequence", composite("any", STRING, ENUM), regex("a")),
    composite("sequence", NESTED, STRING),
    composite("any", choice("ab"), STRING),
    composite("any", regex("ab"), INTEGER, STRING),
    composite("any", STRING, SHORT, regex('"a')),
    composite("any", TOKENS, NESTED),
    composite("any", SPACED, choice("b")),
    composite("any", composite("all", regex("a*"), regex("[ab]")), choice("1")),
    composite("all", regex("[ab]*"), regex(".*b.*"), choice("ab", "a", "bb", "1")),
    composite("all", STRING, SHORT),
    composite("all", STRING, regex(".*a.*")),
    composite("all", EITHER, INTEGER, regex("1+")),
    composite("all", TOKENS, regex(".{3}")),
    composite("all", composite("any", regex("a*"), STRING), composite("any", regex("a"), SHORT)),
    composite("all", composite("sequence", regex("a*"), STRING), regex(".{4}")),
    composite("any", regex("a")),
    composite("all", composite("sequence", composite("any", STRING))),
]


@pytest.mark.parametrize("judged", NAMED, ids=str)
def test_a_composite_admits_exactly_what_its_members_say(judged: Judged) -> None:
    expected = judged_by_hand(judged)
    assert expected
    assert language(str(judged), TEXTS) == expected


def test_random_composites_are_exact_or_refused() -> None:
    """Whatever is accepted is exact; what is refused is a sequence that cannot be told apart, or admits nothing."""
    choose = random.Random(3)
    accepted = refused = 0
    for _ in range(100):
        judged = composite(choose.choice(["any", "all", "sequence", "sequence"]), *choose.choices(MEMBERS, k=choose.randint(2, 3)))
        if choose.random() < 0.4:
            judged = composite(choose.choice(["any", "all", "sequence"]), judged, choose.choice(MEMBERS))
        compiled = COMPILER.compile(str(judged))
        expected = judged_by_hand(judged)
        if compiled.grammar is None:
            refused += 1
            codes = {error.code for error in compiled.report.errors}
            assert codes == {ErrorCode.UNSUPPORTED_CONSTRAINT} if "sequence" in str(judged) and expected else not expected, str(judged)
        else:
            accepted += 1
            assert admitted(from_text(compiled.grammar), TEXTS) == expected, str(judged)
    assert accepted > 50
    assert refused > 10


@pytest.mark.parametrize(
    ("judged", "shape"),
    [
        (composite("any", regex("a"), regex("ab"), choice("b")), "leaf"),
        (composite("any", regex("a"), STRING, INTEGER), "leaf"),
        (composite("any", STRING, SHORT), "any"),
        (composite("sequence", regex("a"), STRING, choice("b")), "leaf"),
        (composite("sequence", regex("a"), composite("any", STRING, SHORT)), "any"),
        (composite("all", regex("a*"), regex("[ab]"), choice("a")), "leaf"),
        (composite("all", STRING, SHORT), "leaf"),
        (composite("all", STRING, regex(".*")), "all"),
        (composite("all", regex('"?a*"'), regex('"*[ab]*"'), STRING, SHORT), "all"),
    ],
    ids=str,
)
def test_one_grammar_is_made_where_it_can_be(judged: Judged, shape: str) -> None:
    grammar = COMPILER.compile(str(judged)).grammar
    assert grammar is not None
    program = from_text(grammar)
    assert shape == ("leaf" if isinstance(program, Leaf) else program.mode)
    if isinstance(program, Branch):
        assert len(program.parts) == 2


REFUSED = [
    (composite("all", regex("a+"), regex("b+")), ErrorCode.INVALID_CONSTRAINT, ["/constraints"]),
    (composite("all", choice("a"), regex("b")), ErrorCode.INVALID_CONSTRAINT, ["/constraints"]),
    (
        composite("any", regex("("), choice("a"), regex("b)")),
        ErrorCode.INVALID_CONSTRAINT,
        ["/constraints/0/pattern", "/constraints/2/pattern"],
    ),
    (
        composite("any", composite("all", regex("("), regex("a")), grammar("start: (", "")),
        ErrorCode.INVALID_CONSTRAINT,
        ["/constraints/0/constraints/0/pattern", "/constraints/1/grammar"],
    ),
    (composite("sequence", regex(".*"), STRING), ErrorCode.UNSUPPORTED_CONSTRAINT, ["/constraints/0"]),
    (composite("sequence", INTEGER, choice("1")), ErrorCode.UNSUPPORTED_CONSTRAINT, ["/constraints/0"]),
    (composite("sequence", choice("a"), SPACED), ErrorCode.UNSUPPORTED_CONSTRAINT, ["/constraints/1"]),
    (composite("sequence", choice("a"), composite("all", STRING, TOKENS)), ErrorCode.UNSUPPORTED_CONSTRAINT, ["/constraints/1"]),
    (composite("all", schema({"type": "string"}, bool), schema({"type": "integer"}, bool)), ErrorCode.INVALID_CONSTRAINT, ["/constraints"]),
]


@pytest.mark.parametrize(("judged", "code", "pointers"), REFUSED, ids=str)
def test_a_composite_that_cannot_be_enforced_is_refused_at_its_member(judged: Judged, code: ErrorCode, pointers: list[str]) -> None:
    report = COMPILER.compile(str(judged)).report
    assert [(error.code, error.pointer) for error in report.errors] == [(code, pointer) for pointer in pointers]
    assert all(error.message for error in report.errors)


def test_a_refused_sequence_says_by_which_characters() -> None:
    [error] = COMPILER.compile(str(composite("sequence", choice("x"), regex("a*"), NESTED))).report.errors
    assert "'a'" in error.message
    assert error.hint is not None


def test_faults_of_shape_are_found_at_every_depth() -> None:
    text = json.dumps(
        {
            "type": "composite",
            "mode": "some",
            "constraints": [
                {"type": "regex"},
                {"type": "nope"},
                3,
                {"pattern": "a"},
                {"type": "composite", "mode": "all", "constraints": []},
                {
                    "type": "composite",
                    "mode": "any",
                    "constraints": [{"type": "json_schema", "schema": 3}, {"type": "choice", "choices": [""]}],
                },
            ],
        }
    )
    pointers = [error.pointer for error in COMPILER.compile(text).report.errors]
    members = ["/0/pattern", "/1/type", "/2", "/3", "/4/constraints", "/5/constraints/0/schema", "/5/constraints/1/choices/0"]
    assert pointers == ["/mode", *(f"/constraints{member}" for member in members)]


def test_the_number_of_constraints_is_bounded() -> None:
    wide = composite("any", *(regex(f"a{{{count}}}") for count in range(64)))
    deep = regex("a")
    for _ in range(64):
        deep = composite("all", deep)
    for judged in (wide, deep):
        [error] = COMPILER.compile(str(judged)).report.errors
        assert error.code == ErrorCode.CONSTRAINT_TOO_LARGE
    assert Compiler(TOKENIZER, Limits(constraints=66)).compile(str(wide)).report.accepted


def test_the_ways_of_a_sequence_are_bounded() -> None:
    part = composite("any", STRING, SHORT)
    [error] = COMPILER.compile(str(composite("sequence", *[part] * 7))).report.errors
    assert error.code == ErrorCode.CONSTRAINT_TOO_LARGE


# Names: whatever a grammar calls its rules, merging keeps them apart.

AWKWARD = r"""
?start: _inner x-y? | "start" -> alias
_inner[capture]: m0_start{1,2} // "comment: ( M0
x-y: /[\/"]b/i | "#\"" # other
m0_start: "a" | M0_START
M0_START: /1/
"""


def test_names_are_kept_apart_in_a_merged_grammar() -> None:
    alone = {"type": "grammar", "grammar": AWKWARD}
    texts = [*texts_over('a1b"', 4), "a/b", "a/B", '1#"', "start", "#start", "#a", "xa"]
    expected = language(json.dumps(alone), texts)
    assert {"a", "1a", 'a"b', "a/B", '1#"', "start"} <= expected
    other = {"type": "grammar", "grammar": 'start: "x" start_\nstart_: "a"'}
    merged = json.dumps({"type": "composite", "mode": "any", "constraints": [alone, other]})
    assert isinstance(from_text(COMPILER.compile(merged).grammar or ""), Leaf)
    assert language(merged, texts) == expected | {"xa"}
    prefixed = json.dumps({"type": "composite", "mode": "sequence", "constraints": [{"type": "choice", "choices": ["#"]}, alone]})
    assert language(prefixed, [f"#{text}" for text in texts]) == {f"#{text}" for text in expected}


def test_imports_are_kept_apart_in_a_merged_grammar() -> None:
    numbers = {"type": "grammar", "grammar": "%import common.INT\n%import common.DIGIT -> D\nstart: INT | /a/ D"}
    merged = {"type": "composite", "mode": "any", "constraints": [numbers, {"type": "grammar", "grammar": 'start: INT\nINT: "b"'}]}
    assert isinstance(from_text(COMPILER.compile(json.dumps(merged)).grammar or ""), Leaf)
    assert language(json.dumps(merged), texts_over("ab1", 2)) == {"1", "11", "a1", "b"}


# Token masks, whose tokens are bytes here.


def token_mask(**ids: list[int]) -> dict[str, Any]:
    return {"type": "token_mask", **ids}


@pytest.mark.parametrize(
    ("mask", "pattern"),
    [
        (token_mask(allowed=[97, 98]), "[ab]*"),
        (token_mask(allowed=[98, 97, 97, 49], forbidden=[98]), "[a1]*"),
        (token_mask(forbidden=[97]), "[^a]*"),
        (token_mask(forbidden=[]), ".*"),
        (token_mask(allowed=list(range(97, 99))), "[ab]*"),
    ],
    ids=str,
)
def test_a_token_mask_admits_its_tokens_alone(mask: dict[str, Any], pattern: str) -> None:
    assert language(json.dumps(mask), TEXTS) == {text for text in TEXTS if re.fullmatch(pattern, text)}


def test_a_token_mask_stands_beside_other_constraints() -> None:
    mask = Judged(token_mask(allowed=[34, 97]), lambda text: set(text) <= {'"', "a"})
    for judged in (
        composite("all", STRING, mask),
        composite("any", regex("b"), mask),
        composite("all", mask, regex("[ab]+"), regex("a.*")),
    ):
        assert language(str(judged), TEXTS) == judged_by_hand(judged)


@pytest.mark.parametrize(
    ("mask", "pointer"),
    [
        ({"type": "token_mask"}, ""),
        (token_mask(allowed=[]), "/allowed"),
        (token_mask(allowed=[-1]), "/allowed/0"),
        ({"type": "token_mask", "forbidden": [1.5]}, "/forbidden/0"),
        ({"type": "token_mask", "forbidden": [True]}, "/forbidden/0"),
        (token_mask(allowed=[5], forbidden=[5, 6]), "/forbidden"),
        (token_mask(allowed=[97, 5000]), ""),
        (token_mask(forbidden=[5000]), ""),
        (token_mask(forbidden=[2**70]), "/forbidden/0"),
    ],
    ids=str,
)
def test_a_faulty_token_mask_is_refused(mask: dict[str, Any], pointer: str) -> None:
    [error] = COMPILER.compile(json.dumps(mask)).report.errors
    assert (error.code, error.pointer) == (ErrorCode.INVALID_CONSTRAINT, pointer)


def test_a_token_mask_in_a_sequence_is_refused() -> None:
    judged = composite("sequence", regex("a"), Judged(token_mask(allowed=[97]), bool))
    [error] = COMPILER.compile(str(judged)).report.errors
    assert (error.code, error.pointer) == (ErrorCode.UNSUPPORTED_CONSTRAINT, "/constraints/1")


# What members have to say goes with them.


def test_findings_of_members_are_told_with_their_place() -> None:
    verified = {"type": "json_schema", "schema": {"type": "array", "uniqueItems": True}, "unsupported": "verify"}
    text = json.dumps({"type": "composite", "mode": "any", "constraints": [{"type": "choice", "choices": ["a"]}, verified]})
    report = COMPILER.compile(text).report
    assert report.guarantee == "verified"
    assert [finding.pointer for finding in report.relaxed] == ["/constraints/1/schema/uniqueItems"]


def test_a_sequence_cannot_be_verified_in_part() -> None:
    verified = {"type": "json_schema", "schema": {"type": "array", "uniqueItems": True}, "unsupported": "verify"}
    text = json.dumps({"type": "composite", "mode": "sequence", "constraints": [{"type": "choice", "choices": ["a"]}, verified]})
    [error] = COMPILER.compile(text).report.errors
    assert (error.code, error.pointer) == (ErrorCode.UNSUPPORTED_CONSTRAINT, "/constraints/1")
    assert "/constraints/1/schema/uniqueItems" in error.message


def test_schemas_with_references_keep_their_own_roots() -> None:
    one = {"type": "json_schema", "schema": {"$ref": "#/$defs/x", "$defs": {"x": {"type": "string"}}}}
    other = {"type": "json_schema", "schema": {"$ref": "#/$defs/x", "$defs": {"x": {"maxLength": 1}}}}
    text = json.dumps({"type": "composite", "mode": "all", "constraints": [one, other]})
    assert language(text, TEXTS) == judged_by_hand(SHORT)


def test_schemas_that_contradict_each_other_are_told_of_both() -> None:
    one = {"type": "json_schema", "schema": {"type": "integer", "minimum": 5}}
    other = {"type": "json_schema", "schema": {"type": "integer", "maximum": 3}}
    [error] = COMPILER.compile(json.dumps({"type": "composite", "mode": "all", "constraints": [one, other]})).report.errors
    assert error.code == ErrorCode.INVALID_CONSTRAINT
    assert str(error.pointer).startswith("/constraints")


def test_the_clients_words_say_the_same() -> None:
    spec = ConstraintSpec.all_of(
        ConstraintSpec.any_of(ConstraintSpec.regex("a", dialect="ecma"), ConstraintSpec.grammar('root ::= "b"', syntax="gbnf")),
        ConstraintSpec.sequence(ConstraintSpec.choice("a"), ConstraintSpec.json_schema({"const": None}, unsupported="verify")),
        ConstraintSpec.token_mask(allowed=range(97, 99)),
        ConstraintSpec.token_mask(forbidden=[1]),
    )
    text = spec.to_json()
    assert json.loads(text)["constraints"][1]["constraints"][1] == {
        "type": "json_schema",
        "schema": {"const": None},
        "unsupported": "verify",
    }
    assert json.loads(text)["constraints"][3] == {"type": "token_mask", "forbidden": [1]}
    assert parse_constraint(json.loads(text)) == spec
