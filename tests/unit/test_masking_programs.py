"""Programs of several grammars: their masks against the sets that their leaves allow, step by step."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from masking_support import (
    CHOICE,
    DEAD_END,
    DEAD_END_TREES,
    EOS_TOKENS,
    NESTED,
    OPEN_SCHEMA,
    REGEXES,
    TOKENIZER,
    TOKENS,
    TREES_OF_CONSTRAINTS,
    VOCABULARY,
    Constraint,
    allowed_by,
    choice_of,
    encode,
    expected_mask,
    fill,
    guide_of,
    mask_of,
    text_of,
    tree,
    tries,
)

from ananke_server.masking.matchers import MatcherPool, grammar_key
from ananke_server.masking.program_matcher import ProgramMatcher, is_pooled, new_program, unforced
from ananke_server.masking.tickets import Failure
from ananke_server.masking.tokenizer import model_tokenizer

SMALL_MODEL = Path(__file__).parents[2] / ".ananke" / "models" / "SmolLM2-135M-Instruct"
WALKS = 8


def words_of(program: str, tokenizer: LLTokenizer, chooser: random.Random) -> tuple[list[int], ProgramMatcher]:
    """A random walk within a program's masks, to its end or its error."""
    matcher = new_program(tokenizer, program)
    output: list[int] = []
    for _ in range(80):
        allowed = allowed_by(np.frombuffer(matcher.compute_bitmask(), dtype=np.int32))
        if matcher.is_error() or set(allowed) == set(tokenizer.eos_tokens):
            break
        output.append(chooser.choice([token for token in allowed if token not in tokenizer.eos_tokens]))
        assert matcher.consume_tokens(output[-1:])
    return output, matcher


@pytest.mark.parametrize("constraint", [*TREES_OF_CONSTRAINTS, *DEAD_END_TREES], ids=lambda constraint: constraint.name)
def test_masks_of_a_tree_are_those_of_its_leaves_combined(constraint: Constraint) -> None:
    chooser = random.Random(constraint.name)
    pool = MatcherPool(TOKENIZER)
    endings = set()
    for _ in range(WALKS):
        guide = guide_of(constraint, pool)
        newest: tuple[int, ...] = ()
        while len(text := text_of([*guide.output, *newest])) + 3 <= constraint.horizon:
            allowed = mask_of(guide, *newest)
            expected = expected_mask(constraint, tuple(guide.output))
            assert allowed == expected, (text, [TOKENS[token] for token in allowed])
            assert guide.record.failure is expected.failure
            newest = (chooser.choice(sorted(allowed)),)
            if newest[0] in EOS_TOKENS:
                dead_end = guide.record.failure is Failure.DEAD_END
                assert dead_end == (text not in constraint.words)
                endings.add(dead_end)
                break
    assert endings == {not constraint.words}


LEAVES = [*REGEXES, CHOICE, NESTED, DEAD_END, choice_of("abc", "abcaa", "abcx", "true"), choice_of("((a))", "ab", "aab")]
trees = st.recursive(
    st.sampled_from(LEAVES),
    lambda parts: st.builds(lambda mode, some: tree(mode, *some), st.sampled_from(["all", "any"]), st.lists(parts, min_size=1, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(trees, st.randoms(use_true_random=False))
def test_any_tree_allows_what_its_leaves_allow_and_accepts_its_language(constraint: Constraint, chooser: random.Random) -> None:
    matcher = new_program(TOKENIZER, constraint.grammar)
    output: list[int] = []
    while len(text_of(output)) + 3 <= constraint.horizon and not {*output} & {*EOS_TOKENS}:
        expected = expected_mask(constraint, tuple(output))
        assert set(allowed_by(np.frombuffer(matcher.compute_bitmask(), dtype=np.int32))) == expected
        failure = matcher.failure()
        assert (Failure.NONE if failure is None else failure[0]) is expected.failure
        assert matcher.is_accepting() == (text_of(output) in constraint.words)
        if failure is not None:
            break
        tokens = [chooser.choice(sorted(expected)) if chooser.random() < 0.95 else chooser.randrange(VOCABULARY)]
        matcher.consume_tokens(tokens)
        output += tokens
    matcher.rewind()
    assert set(allowed_by(np.frombuffer(matcher.compute_bitmask(), dtype=np.int32))) == expected_mask(constraint, ())


@pytest.mark.parametrize("constraint", TREES_OF_CONSTRAINTS, ids=lambda constraint: constraint.name)
def test_a_program_accepts_the_words_of_its_language_alone(constraint: Constraint) -> None:
    chooser = random.Random(3)
    candidates = {word for other in TREES_OF_CONSTRAINTS for word in other.words} | {b"", b"ab", b"abcc", b"zz", b"(a"}
    for word in chooser.sample(sorted(candidates), min(150, len(candidates))):
        if len(word) >= constraint.horizon:
            continue
        tokens = encode(word) if chooser.random() < 0.5 else [TOKENS.index(bytes([byte])) for byte in word]
        matcher = new_program(TOKENIZER, constraint.grammar)
        assert (matcher.consume_tokens(tokens) and matcher.is_accepting()) == (word in constraint.words), word


def test_a_text_that_one_leaf_forces_in_other_tokens_is_still_common() -> None:
    """Canonical masks alone would have nothing in common: one leaf forces ``abc``, which the other may only write as ``ab``, ``c``."""
    forced = LLMatcher.grammar_from_regex("abc")
    pieces = f"start: <[{TOKENS.index(b'ab')}]> <[{TOKENS.index(b'c')}]>"
    alone = [np.frombuffer(LLMatcher(TOKENIZER, grammar).compute_bitmask(), dtype=np.int32) for grammar in (forced, pieces)]
    assert not (alone[0] & alone[1]).any()
    guide = guide_of(Constraint("pieces", json.dumps({"all": [forced, pieces]}), frozenset([b"abc"]), 1000))
    assert mask_of(guide) == set(encode(b"ab"))
    assert mask_of(guide, *encode(b"ab")) == set(encode(b"c"))
    assert mask_of(guide, *encode(b"c")) == {*EOS_TOKENS}


@pytest.mark.parametrize(
    "grammar",
    [
        *(constraint.grammar for constraint in (*REGEXES, CHOICE, NESTED, OPEN_SCHEMA)),
        LLMatcher.grammar_from_json_schema({"const": {"ab": [True, 12]}}),
        LLMatcher.grammar_from_json_schema({"type": "object", "properties": {"ab": {"const": "true"}}, "required": ["ab"]}),
        '{"grammars": [{"lark_grammar": "start: \\"x \\" @inner"}, {"name": "inner", "json_schema": {"const": true}}]}',
    ],
)
def test_an_unforced_mask_allows_whatever_the_matcher_takes(grammar: str) -> None:
    chooser = random.Random(grammar)
    free = Constraint("free", unforced(grammar), frozenset(), 0)
    for _ in range(4):
        output: list[int] = []
        for _ in range(10):
            matcher = LLMatcher(TOKENIZER, free.grammar, log_level=0)
            assert not matcher.is_error(), matcher.get_error()
            assert all(matcher.consume_token(token) for token in output)
            allowed = set(allowed_by(np.frombuffer(matcher.compute_bitmask(), dtype=np.int32)))
            assert allowed == tries(Constraint("", grammar, frozenset(), 0), output)
            if not (going_on := sorted(allowed - {*EOS_TOKENS})):
                break
            output.append(chooser.choice(going_on))


def test_a_leaf_left_behind_is_back_once_tokens_are_discarded() -> None:
    either = tree("any", CHOICE, NESTED)
    guide = guide_of(either)
    assert mask_of(guide, *encode(b"x ")) == expected_mask(CHOICE, tuple(encode(b"x ")))
    assert fill(guide, 0) == expected_mask(either, ())
    assert mask_of(guide, *encode(b"((")) == expected_mask(NESTED, tuple(encode(b"((")))
    assert fill(guide, 0) == expected_mask(either, ())
    assert mask_of(guide, *encode(b"x "), *encode(b"1")) == {*EOS_TOKENS}
    assert guide.record.failure is Failure.NONE


def test_a_leaf_in_its_error_state_is_replaced_once_tokens_are_discarded() -> None:
    either = tree("any", DEAD_END, CHOICE)
    guide = guide_of(either)
    assert guide.matcher is not None
    x = TOKENS.index(b"x")
    assert mask_of(guide, x) == expected_mask(either, (x,)) == expected_mask(CHOICE, (x,))
    dead = guide.matcher.leaves[0].matcher
    assert dead.is_error()
    for _ in range(2):
        assert fill(guide, 0) == expected_mask(either, ())
        assert guide.matcher.leaves[0].matcher is not dead
        assert mask_of(guide, x) == expected_mask(either, (x,))
    again = guide_of(either, guide.matcher.pool)
    assert mask_of(again) == expected_mask(either, ())
    assert again.record.failure is guide.record.failure is Failure.NONE


def test_each_leaf_is_of_the_pools_copy_of_its_own_grammar() -> None:
    pool = MatcherPool(TOKENIZER)
    both, either = tree("all", CHOICE, REGEXES[1]), tree("any", CHOICE, NESTED)
    guides = [guide_of(constraint, pool) for constraint in (both, either, both, CHOICE, NESTED)]
    keys = [grammar_key(grammar) for grammar in (unforced(CHOICE.grammar), unforced(REGEXES[1].grammar), CHOICE.grammar, NESTED.grammar)]
    assert [leaf.key for guide in guides for leaf in guide.matcher.leaves] == [*keys, *keys[:2], *keys[2:]]  # type: ignore[union-attr]
    assert all(key in pool for key in keys), "only under all is a grammar unforced"
    assert len(pool) == 4
    masks = [mask_of(guide, *encode(b"ab")) for guide in (guides[0], guides[3])]
    assert masks == [expected_mask(constraint, tuple(encode(b"ab"))) for constraint in (both, CHOICE)]
    assert mask_of(guides[2]) == expected_mask(both, ())


def test_a_program_is_pooled_where_each_of_its_grammars_is() -> None:
    pool = MatcherPool(TOKENIZER)
    both = tree("all", CHOICE, tree("any", NESTED, REGEXES[0]))
    for grammar in (unforced(CHOICE.grammar), unforced(NESTED.grammar), NESTED.grammar, CHOICE.grammar, REGEXES[0].grammar):
        assert not is_pooled(pool, both.grammar)
        assert is_pooled(pool, grammar) == (grammar_key(grammar) in pool)
        pool.take(grammar_key(grammar), grammar)
        assert is_pooled(pool, grammar)
    assert not is_pooled(pool, both.grammar)
    guide = guide_of(both, pool)
    assert is_pooled(pool, both.grammar)
    assert mask_of(guide) == expected_mask(both, ())


def test_a_retired_program_had_served_others_where_one_of_its_leaves_had() -> None:
    pool = MatcherPool(TOKENIZER)
    guide = guide_of(tree("any", CHOICE, NESTED), pool)
    guide_of(NESTED, pool)
    assert guide.matcher is not None
    assert guide.matcher.retire()
    assert len(pool) == 0


@pytest.mark.parametrize("mode", ["all", "any"])
def test_a_leaf_that_does_not_compile_fails_the_whole(mode: str) -> None:
    program = json.dumps({mode: [CHOICE.grammar, "start: nothing"]})
    matcher = new_program(TOKENIZER, program)
    assert matcher.is_error()
    assert "nothing" in matcher.error_text()
    matcher.rewind()
    assert matcher.is_error()
    guide = guide_of(Constraint("", program, frozenset(), 0))
    assert mask_of(guide) == {*EOS_TOKENS}
    assert guide.record.failure is Failure.INTERNAL


def test_constraints_with_nothing_in_common_are_found_by_the_first_mask() -> None:
    matcher = new_program(TOKENIZER, json.dumps({"all": [LLMatcher.grammar_from_regex("a+"), LLMatcher.grammar_from_regex("b+")]}))
    assert not matcher.is_error()
    assert not matcher.error_text()
    assert allowed_by(np.frombuffer(matcher.compute_bitmask(), dtype=np.int32)) == [*EOS_TOKENS]
    assert matcher.is_error()
    assert "NoExtension" in matcher.error_text()


PHONE = LLMatcher.grammar_from_regex(r"(foo|bar) [0-9]{3}-[0-9]{4}|foolish|barter[a-z ]{0,9}")
OBJECT = LLMatcher.grammar_from_json_schema({"type": "object", "properties": {"name": {"enum": ["foo", "bar"]}, "n": {"type": "integer"}}})
SHORT = LLMatcher.grammar_from_regex(r"(?s:.{1,14})")
SMALL_LETTERS = LLMatcher.grammar_from_regex(r"[^A-Z\"]*")
REAL = [
    {"all": [PHONE, SHORT]},
    {"all": [OBJECT, LLMatcher.grammar_from_regex(r'\{ ?"name": ?"[a-z]{3}"(, "n": [0-9]{1,4})?\}')]},
    {"any": [OBJECT, PHONE]},
    {"all": [{"any": [PHONE, OBJECT]}, SMALL_LETTERS]},
]


@pytest.mark.skipif(not SMALL_MODEL.is_dir(), reason="the small model has not been made")
@pytest.mark.parametrize("program", REAL, ids=["short phone", "object by regex", "either", "lower-case either"])
def test_on_a_real_vocabulary_masks_are_combined_and_outputs_satisfy_every_part(program: dict[str, list[object]]) -> None:
    tokenizer = model_tokenizer(str(SMALL_MODEL))
    chooser = random.Random(str(program))
    satisfied = 0
    for _ in range(5):
        output, matcher = words_of(json.dumps(program), tokenizer, chooser)
        if not matcher.is_error() and matcher.is_accepting():
            satisfied += 1
            assert _accepts(program, tokenizer, output)
        replayed = ProgramMatcher.of(MatcherPool(tokenizer), json.dumps(program))
        for step in range(len(output)):
            allowed = np.frombuffer(replayed.compute_bitmask(), dtype=np.int32)
            assert np.array_equal(allowed, _mask(program, tokenizer, output[:step], False))
            assert replayed.consume_tokens([output[step]])
    assert satisfied


def _mask(program: object, tokenizer: LLTokenizer, output: list[int], intersected: bool) -> np.ndarray:
    """The mask of a tree by fresh matchers, its leaves unforced by an option of their own text."""
    if isinstance(program, dict):
        [(mode, parts)] = program.items()
        masks = [_mask(part, tokenizer, output, intersected or mode == "all") for part in parts]
        return np.bitwise_and.reduce(masks) if mode == "all" else np.bitwise_or.reduce(masks)
    matcher = LLMatcher(tokenizer, unforced(str(program)) if intersected else str(program), log_level=0)
    taken = matcher.try_consume_tokens(output)
    mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.int32)
    return mask if taken == len(output) else np.zeros_like(mask)


def _accepts(program: object, tokenizer: LLTokenizer, output: list[int]) -> bool:
    if isinstance(program, dict):
        [(mode, parts)] = program.items()
        accepted = [_accepts(part, tokenizer, output) for part in parts]
        return all(accepted) if mode == "all" else any(accepted)
    matcher = LLMatcher(tokenizer, str(program), log_level=0)
    return matcher.try_consume_tokens(output) == len(output) and matcher.is_accepting()
