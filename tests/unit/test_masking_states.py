"""States: masks kept by their keys are, bit for bit, those that llguidance computes for each request alone."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from llguidance import LLTokenizer

from ananke_server.constraints import Compiler
from ananke_server.launch import DEFAULT_MODEL
from ananke_server.masking import program_matcher
from ananke_server.masking.adjacency import may_meet
from ananke_server.masking.mask_store import MaskStore
from ananke_server.masking.matchers import MatcherPool, new_matcher
from ananke_server.masking.program_matcher import ProgramMatcher
from ananke_server.masking.states import Progress, Terminals
from ananke_server.masking.tokenizer import mask_words, model_tokenizer

SHORT, WORD = {"type": "string", "maxLength": 6}, {"type": "string", "pattern": "^[a-f]{2,8}$"}
END = {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
SCHEMAS: dict[str, Any] = {
    "bounded": {"type": "array", "items": {"type": "string", "minLength": 2, "maxLength": 9}, "minItems": 50},
    "exact": {"type": "array", "items": {"type": "string", "minLength": 7, "maxLength": 7}, "minItems": 50},
    "several": {"type": "array", "items": {"anyOf": [SHORT, WORD, {"enum": ["abc", "abd", "fee", "Fi", 12]}]}, "minItems": 50},
    "by name": {
        "type": "object",
        "properties": {"a": SHORT, "b": WORD, "c": {"type": "integer", "minimum": 3, "maximum": 4000}, "d": SHORT},
    },
    "by what came": {
        "type": "array",
        "prefixItems": [{"enum": ["ab", "abcd", "x"]}, SHORT, {"type": "number", "minimum": -2.5, "maximum": 71}, WORD, SHORT],
        "minItems": 5,
        "items": SHORT,
    },
    "recursive": {
        "$defs": {"node": {"type": "object", "properties": {"n": SHORT, "next": {"$ref": "#/$defs/end"}}, "required": ["n"]}, "end": END},
        "type": "array",
        "items": {"$ref": "#/$defs/node"},
        "minItems": 20,
    },
    "names": {"type": "array", "items": {"type": "object", "properties": {"a": SHORT}, "additionalProperties": SHORT}, "minItems": 20},
}


@cache
def tokenizer() -> LLTokenizer:
    return model_tokenizer(str(DEFAULT_MODEL))


def grammar_of(schema: Any, whitespace: str = "compact") -> str:
    constraint = json.dumps({"type": "json_schema", "schema": schema, "whitespace": whitespace})
    program = Compiler(tokenizer()).compile(constraint).grammar
    assert program is not None
    return program


def words() -> int:
    return mask_words(tokenizer())


def walks(program: str, pool: MatcherPool, count: int, steps: int, seed: int) -> Iterator[tuple[bytes, bytes, list[int]]]:
    """The masks of requests side by side, by the pool and each alone, and the tokens so far; the next is one of those admitted."""
    draw = random.Random(seed)
    ends = set(tokenizer().eos_tokens)
    requests = [(ProgramMatcher.of(pool, program, of_schema=True), new_matcher(tokenizer(), program), list[int]()) for _ in range(count)]
    ours = np.zeros(words(), dtype=np.int32)
    for _ in range(steps):
        for request in list(requests):
            shared, alone, tokens = request
            shared.fill(ours.ctypes.data, words())
            yield ours.tobytes(), alone.compute_bitmask()[: ours.nbytes], tokens
            admitted = np.flatnonzero(np.unpackbits(ours.view(np.uint8), bitorder="little"))
            tokens_drawn = [int(draw.choice(admitted)) for _ in range(4)]
            # White space is admitted nearly everywhere.
            token = next((token for token in tokens_drawn if tokenizer().decode_bytes([token]).strip()), tokens_drawn[0])
            if token in ends:
                requests.remove(request)
                continue
            tokens.append(token)
            shared.consume_tokens((token,))
            alone.consume_token(token)


@pytest.fixture
def keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep masks however quick they are to compute."""
    monkeypatch.setattr(program_matcher, "WORTH_NS", -1)


@pytest.mark.parametrize("whitespace", ["compact", "flexible"])
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_mask_that_was_kept_is_the_one_that_would_be_computed(keep_all: None, name: str, whitespace: str) -> None:
    store = MaskStore(words())
    pool = MatcherPool(tokenizer(), masks=store)
    for ours, alone, tokens in walks(grammar_of(SCHEMAS[name], whitespace), pool, count=16, steps=40, seed=len(name)):
        assert ours == alone, tokenizer().decode_str(tokens)
    assert store.found > 0


def test_slow_masks_alone_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_matcher, "WORTH_NS", 10**12)
    store = MaskStore(words())
    pool = MatcherPool(tokenizer(), masks=store)
    for ours, alone, _ in walks(grammar_of(SCHEMAS["bounded"]), pool, count=4, steps=60, seed=1):
        assert ours == alone
    assert store.found == 0


def test_a_rewound_request_goes_on_from_the_start(keep_all: None) -> None:
    pool, program = MatcherPool(tokenizer(), masks=MaskStore(words())), grammar_of(SCHEMAS["by what came"])
    mask = np.zeros(words(), dtype=np.int32)
    matcher = ProgramMatcher.of(pool, program, of_schema=True)
    for _, alone, tokens in walks(program, pool, count=1, steps=40, seed=5):
        matcher.rewind()
        matcher.consume_tokens(list(tokens))
        matcher.fill(mask.ctypes.data, words())
        assert mask.tobytes() == alone


def progress(schema: Any, *pieces: bytes) -> Progress:
    terminals = Terminals.of(grammar_of(schema))
    assert terminals is not None
    made = Progress(terminals, "a grammar")
    for piece in pieces:
        made.consume(piece)
    return made


FIELDS = {
    "type": "array",
    "prefixItems": [SHORT, WORD, {"type": "integer", "minimum": 5, "maximum": 600}, SHORT],
    "minItems": 4,
    "items": False,
}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'["xyz', b'["\xc3\xa9 z'),
        (b'["xyz","abc', b'["","cab'),
        (b'["xyz","abc",17,"a', b'["q","ffff",599,"b'),
        (b'["x\\n","abc",17', b'["q","ff",17'),
        (b'["\xc3', b'["\xc3'),
    ],
)
def test_what_has_the_same_masks_ahead_has_one_key(one: bytes, other: bytes) -> None:
    assert progress(FIELDS, one).key == progress(FIELDS, other).key is not None
    assert progress(FIELDS, *(one[index : index + 1] for index in range(len(one)))).key == progress(FIELDS, one).key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'["xyz', b'["xy'),
        (b'["xyz', b'["xyz"'),
        (b'["xyz"', b'["xyz",'),
        (b'["xyz","ab', b'["xyz'),
        (b'["x","abc",17', b'["x","abc",18'),
        (b'["x","abc",1', b'["x","abc",17,'),
        (b'["\xc3', b'["\xc4'),
    ],
)
def test_what_has_not_has_two(one: bytes, other: bytes) -> None:
    assert progress(FIELDS, one).key != progress(FIELDS, other).key


def test_within_a_beginning_of_a_literal_its_text_counts() -> None:
    schema = {"type": "array", "prefixItems": [{"enum": ["draft", "drawn"]}], "items": SHORT, "minItems": 9}
    assert progress(schema, b'["dra').key != progress(schema, b'["abc').key
    assert progress(schema, b'["drum').key == progress(schema, b'["abcd').key
    assert progress(schema, b'["draft",').key != progress(schema, b'["other",').key
    assert progress(schema, b'["drift",').key == progress(schema, b'["other",').key


def test_the_empty_string_may_be_a_literal_and_another_is_not() -> None:
    schema = {"type": "array", "prefixItems": [{"enum": ["", "ab"]}], "items": SHORT, "minItems": 9}
    assert progress(schema, b'["",').key != progress(schema, b'["xyz",').key
    assert progress(schema, b'["",').key == progress(schema, b'["ab",').key


def test_after_an_escape_there_is_no_key_until_the_string_ends() -> None:
    assert progress(FIELDS, b'["a\\').key is None
    assert progress(FIELDS, b'["a\\"b').key is None
    assert progress(FIELDS, b'["a\\"b"').key == progress(FIELDS, b'["xyz"').key
    assert progress(FIELDS, b'["a\\', b'"', b'b"').key == progress(FIELDS, b'["xyz"').key


def test_what_no_terminal_matches_has_no_key() -> None:
    assert progress(FIELDS, b'["much too long"').key is None
    assert progress(FIELDS, b'["\xff\xff').key is None


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "a" T0\nT0: /"[a-z]{1,3}"/',
        'start: T0\nT0: /"[a-z]{1,3}"/i',
        'start: T0\nT0: /"[a-z--b]{1,3}"/',
        'start: T0\nT0: /"[^a]{1,3}"/',
        'start: T0\nT0: /"[[:alpha:]]{1,3}"/',
        'start: T0\nT0: /"[\\w]{1,3}"/',
        'start: T0\nT0: /"[a-z]{1,3}[0-9]"/',
        'start: T0\nT0: /[a-z]{1,3}/ & /"[a-z]{1,3}"/',
        'start: T0\nT0: ~/"[a-z]{1,3}"/',
        'start: T0\nT0: "x y" | /"[a-z]{1,3}"/',
        'start: T0\nT0[lazy]: /"[a-z]{1,3}"/',
        'start[max_tokens=3]: T0\nT0: /"[a-z]{1,3}"/',
        'start: T0\n%ignore /[ ]+/\nT0: /"[a-z]{1,3}"/',
        '%llguidance {"no_forcing": true}\nstart: T0\nT0: /"[a-z]{1,3}"/',
        'start: T0\nT0: /"[a-z]*"/',
        'start: T0 T1 T2\nT0: /"[a-z]{1,3}"/\nT1: /[0-9]+/\nT2: /[a-z]+/',
        'start: T0 T1+\nT0: /"[a-z]{1,3}"/\nT1: /[0-9]/',
        'start: T0 r1 r1\nr1: T1 T2?\nT0: /"[a-z]{1,3}"/\nT1: /[0-9]/\nT2: /\\,/',
        'start: T0 r1\nr1: T1 | T1 T0? r1\nT0: /"[a-z]{1,3}"/\nT1: /[0-9]/',
        'start: T0 r9\nT0: /"[a-z]{1,3}"/',
        'start: T0 T1\nT0: /"[a-z]{1,3}"/\nT1: /a:b/',
        'start: T0 T1\nT0: /"[a-z]{1,3}"/\nT1: /a b/',
        'start: T0 T1\nT0: /"[a-z]{1,3}"/\nT1: /[a:]+/',
        'start: T0 T1\nT0: /"[a-z]{1,3}"/\nT1: /a.b/',
        'start: T0 T1\nT0: /"[a-z]{1,3}"/\nT1: "a:b"',
        'start: T0 T1\nT0: /"[a-z]{1,3}"/\nT1: "\\"a\\"b\\""',
        'start: T0 T1\nT0: /"[a-z]{1,3}"/\nT1: /\\,\\,/',
        # What json takes for a string is not all that is written between two quotes.
        'start: T0 T1\nT0: /"[a-z]{1,3}"/\nT1: "\\"ab\\" "',
        'start: T0 T1\nT0: /"[a-z]{1,3}"/\nT1: "\\ufeff\\"ab\\""',
        'start: T0 T1\nT0: /"[a-z]{1,3}"/\nT1: "\\"\\u0000a\\u0000\\"\\u0000"',
        # From + to 9 there are a comma and a slash, from 9 to A a colon, from Z to a brackets.
        'start: T0 T1\nT0: /"[a-z]{1,3}"/\nT1: /1[+-9]5/',
        'start: T0 T1\nT0: /"[a-z]{1,3}"/\nT1: /[9-A]/',
        'start: T0 T1\nT0: /"[a-z]{1,3}"/\nT1: /[0-9Z-a]+/',
        'start: T0\nT0: /"(?:[a-z]|\\\\(?:ab"|c)){1,3}"/',
        'start: T0\nT0: /"(?:[a-z]|\\\\(?:[a-z])){1,3}"/',
        "start: " + "(" * 5000 + "T0" + ")" * 5000 + '\nT0: /"[a-z]{1,3}"/',
        '{"grammars": []}',
        "",
    ],
    ids=lambda grammar: ascii(grammar)[:60],
)
def test_grammars_of_another_form_or_without_bounds_have_no_keys(grammar: str) -> None:
    assert Terminals.of(grammar) is None


@pytest.mark.parametrize(
    ("rules", "meet"),
    [
        ({"start": "S"}, False),
        ({"start": "S S"}, True),
        ({"start": "S M S"}, False),
        ({"start": "S M? S"}, True),
        ({"start": "(S M)* S"}, False),
        ({"start": "(S M?)*"}, True),
        ({"start": "S (M S){2,}"}, False),
        ({"start": "S (M S){2,} S"}, True),
        ({"start": "(S | M) M | M"}, False),
        ({"start": "r1 r2", "r1": "M | S", "r2": "M"}, False),
        ({"start": "r1 r2", "r1": "M | S", "r2": "M | r1"}, True),
        ({"start": "r1", "r1": "M r1 M | S"}, False),
        ({"start": "r1", "r1": "r1 S | M"}, True),
        ({"start": "r1 S", "r1": "(r2 M)? r2", "r2": "(M |)"}, False),
        ({"start": "S r1 S", "r1": "r2 r2", "r2": "M | "}, True),
    ],
)
def test_whether_terminals_may_meet(rules: dict[str, str], meet: bool) -> None:
    assert may_meet(rules, {"S": True, "M": False}) is meet


@pytest.mark.parametrize("body", ["X", "(S", "S)", "S ~ M", "* S", "S [", '"a"'])
def test_rules_of_another_form_are_refused(body: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        may_meet({"start": body}, {"S": True, "M": False})


def test_the_form_is_known() -> None:
    rules = "start: r1\nr1: T0 (T1 T0){2,} | T2?\n"
    terminals = 'T0: /"[a-z]{1,3}"/\nT1: /\\,/\nT2: /-?[0-9]+/ & /[1-9]+/ | "\\"x\\""'
    assert Terminals.of(rules + terminals) is not None


@pytest.mark.parametrize("terminal", ["[0-9]", "[+-]?[0-9]", "[-+]?[0-9]", "[0-9a-fA-F]+", "[1-9][0-9]{0,4}", "[eE]1"])
def test_ranges_of_digits_and_letters_are_known(terminal: str) -> None:
    assert Terminals.of(f'start: T0 | T1\nT0: /"[a-z]{{1,3}}"/\nT1: /{terminal}/') is not None


def keys_of(grammar: str, *outputs: bytes) -> list[bytes | None]:
    """The keys of outputs that follow one another, under a grammar that has them."""
    terminals = Terminals.of(grammar)
    assert terminals is not None
    found = []
    for output in outputs:
        progress = Progress(terminals, "a grammar")
        progress.consume(output)
        found.append(progress.key)
    return found


def test_a_number_whose_matcher_gives_up_has_no_key_nor_has_any_after_it() -> None:
    heavy = 'start: T0 T1 T2 T1 T0\nT0: /"[a-z]{1,60}"/\nT1: /\\,/\nT2: /7|[0-9]*1[0-9]{1000}/'
    terminals = Terminals.of(heavy)
    assert terminals is not None
    assert terminals.of_scalar(b"7") == {3}
    [(_, matcher)] = terminals.scalars
    digits = bytes(random.Random(1).choices(b"01", k=4000))
    for _ in range(20):
        matcher.reset()
        matcher.try_consume_tokens(list(digits))
    assert matcher.is_error()
    assert terminals.of_scalar(b"8") is None


def test_long_numbers_and_long_beginnings_have_no_keys() -> None:
    grammar = f'start: T0 | T1 T2 T0 | T3\nT0: /"[a-z]{{1,9}}"/\nT1: /[0-9]+/\nT2: /\\,/\nT3: "\\"{"a" * 400}\\""'
    short, long, after = keys_of(grammar, b"1" * 64, b"1" * 65, b"1" * 65 + b',"a')
    assert short is not None
    assert (long, after) == (None, None)
    beginning, further = keys_of(grammar, b'"' + b"a" * 256, b'"' + b"a" * 257)
    assert beginning is not None
    assert further is None


def test_a_string_that_is_no_text_has_no_key() -> None:
    grammar = 'start: T0\nT0: /"(?:[a-z]|\\\\(?:[nt])){1,9}"/'
    assert keys_of(grammar, b'"\\n\xff"', b'"\\n\xff') == [None, None]


def test_a_grammar_of_a_users_own_is_not_followed_whatever_it_looks_like() -> None:
    program = grammar_of(SCHEMAS["bounded"])
    pool = MatcherPool(tokenizer(), masks=MaskStore(words()))
    assert ProgramMatcher.of(pool, program)._progress is None
    assert ProgramMatcher.of(pool, program, of_schema=True)._progress is None, "made for the one before"
    other = MatcherPool(tokenizer(), masks=MaskStore(words()))
    assert ProgramMatcher.of(other, program, of_schema=True)._progress is not None
    matcher = ProgramMatcher.of(other, program)
    matcher.rewind()
    assert matcher._progress is None


def numbers(count: int) -> str:
    return 'T0: /"[a-z]{1,3}"/\n' + "\n".join(f"T{number}: /{number}[0-9]*/" for number in range(1, 1 + count))


def classes(count: int) -> str:
    return "\n".join(f'T{number}: /"[{chr(0x4E00 + number)}]{{1,3}}"/' for number in range(count))


@pytest.mark.parametrize("terminals", [numbers, classes])
def test_what_would_have_to_be_tried_for_each_token_is_bounded(terminals: Callable[[int], str]) -> None:
    assert Terminals.of("start: T0\n" + terminals(64)) is not None
    assert Terminals.of("start: T0\n" + terminals(65)) is None


def test_a_long_literal_takes_no_more_room_than_it_has() -> None:
    text = "a" * 60_000
    terminals = Terminals.of(f'start: T0 | T1\nT0: /"[a-z]{{1,3}}"/\nT1: "\\"{text}\\""')
    assert terminals is not None
    tracemalloc.start()
    try:
        assert terminals.begins_literal(text[:-1].encode())
        assert not terminals.begins_literal(text[:-1].encode() + b"b")
        assert tracemalloc.get_traced_memory()[1] < 10 * len(text)
    finally:
        tracemalloc.stop()
