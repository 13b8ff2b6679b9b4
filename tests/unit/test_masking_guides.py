"""Guides: their masks against lists of what each language holds, and against matchers that share nothing."""

from __future__ import annotations

import random

import pytest
from llguidance import LLMatcher
from masking_support import (
    CHOICE,
    CONSTRAINTS,
    DEAD_END,
    DISJOINT,
    EOS_TOKENS,
    NESTED,
    OPEN_SCHEMA,
    REGEXES,
    TOKENIZER,
    TOKENS,
    TREES_OF_CONSTRAINTS,
    VOCABULARY,
    Constraint,
    encode,
    expected_mask,
    fill,
    guide_of,
    mask_of,
    text_of,
    tree,
    tries,
)

from ananke_server.masking import matchers
from ananke_server.masking.guides import Guide
from ananke_server.masking.matchers import MatcherPool
from ananke_server.masking.tickets import Failure

WALKS = 12
REJECTED = VOCABULARY - 2
ENDS = {*EOS_TOKENS}
MANY_STATES = Constraint("many states", "start: /x(a|b)*a(a|b){300}c/", frozenset(), 0)
"""Its lexer learns about two states a token, whatever is sampled."""


def language_allows(constraint: Constraint, text: bytes) -> set[int]:
    ends = ENDS if text in constraint.words else set()
    texts = (token for token in range(VOCABULARY) if not TOKENS[token].startswith(b"<"))
    return ends | {token for token in texts if constraint.is_viable(text + TOKENS[token])}


def canonical(constraint: Constraint, text: bytes) -> set[int]:
    """The one token with which the vocabulary itself would write what must follow; none where nothing must."""
    words = [word for word in constraint.words if word.startswith(text)]
    forced = next((size for size, column in enumerate(zip(*words, strict=False)) if len({*column}) > 1), min(map(len, words)))
    return {encode(words[0][len(text) : forced])[0]} if forced > len(text) else set()


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda constraint: constraint.name)
def test_masks_hold_exactly_what_the_language_allows(constraint: Constraint) -> None:
    chooser = random.Random(constraint.name)
    pool = MatcherPool(TOKENIZER)
    ended = 0
    for _ in range(WALKS):
        guide = guide_of(constraint, pool)
        newest: tuple[int, ...] = ()
        for _ in range(30):
            text = text_of([*guide.output, *newest])
            if len(text) + 3 > constraint.horizon:
                break
            allowed = mask_of(guide, *newest)
            possible = language_allows(constraint, text)
            assert allowed == expected_mask(constraint, tuple(guide.output))
            # What must follow may be written in its canonical tokens alone.
            assert allowed in (possible, canonical(constraint, text)), (text, [TOKENS[token] for token in allowed ^ possible])
            newest = (chooser.choice(sorted(allowed)),)
            if newest[0] in ENDS:
                assert mask_of(guide, *newest) == ENDS
                ended += 1
                break
        assert guide.record.failure is Failure.NONE
    assert ended


def test_an_open_schema_allows_what_a_matcher_takes() -> None:
    chooser = random.Random(5)
    guide = guide_of(OPEN_SCHEMA)
    output: list[int] = []
    for _ in range(25):
        allowed = mask_of(guide, *output[-1:])
        assert allowed == expected_mask(OPEN_SCHEMA, tuple(output)) == tries(OPEN_SCHEMA, output)
        output.append(chooser.choice(sorted(allowed - ENDS)))


@pytest.mark.parametrize("end", EOS_TOKENS)
def test_every_end_ends(end: int) -> None:
    guide = guide_of(CHOICE)
    assert mask_of(guide, *encode(b"ab")) > ENDS
    assert mask_of(guide, end) == ENDS
    # Under asynchronous scheduling one more step runs before the engine learns of the end.
    assert mask_of(guide, end) == ENDS
    assert guide.record.failure is Failure.NONE


@pytest.mark.parametrize("constraint", [CHOICE, TREES_OF_CONSTRAINTS[1]], ids=lambda constraint: constraint.name)
def test_an_output_that_has_not_grown_has_the_same_mask(constraint: Constraint) -> None:
    guide = guide_of(constraint)
    mask = mask_of(guide, *encode(b"ab"))
    assert [fill(guide, 1) for _ in range(3)] == [mask] * 3
    assert guide.output == encode(b"ab")
    assert mask == expected_mask(constraint, tuple(encode(b"ab")))


@pytest.mark.parametrize("constraint", [NESTED, tree("any", NESTED, CHOICE), tree("all", NESTED, NESTED)], ids=lambda tree: tree.name)
@pytest.mark.parametrize("kept", range(5))
def test_an_output_that_has_lost_tokens_is_replayed(constraint: Constraint, kept: int) -> None:
    guide = guide_of(constraint)
    output = encode(b"(") * 3 + encode(b"a")
    mask_of(guide, *output)
    assert fill(guide, kept) == expected_mask(constraint, tuple(output[:kept]))
    assert guide.output == output[:kept]
    other = encode(b"(") if kept < 4 else encode(b")")
    assert mask_of(guide, *other) == expected_mask(constraint, (*output[:kept], *other))
    assert guide.record.failure is Failure.NONE


def test_a_token_sampled_in_the_place_of_a_discarded_one_takes_its_place() -> None:
    guide = guide_of(NESTED)
    mask_of(guide, *encode(b"(("))
    for length in (2, 1):
        assert fill(guide, length, *encode(b"a")) == expected_mask(NESTED, (*encode(b"((")[: length - 1], *encode(b"a")))
    assert guide.output == encode(b"a")
    assert guide.record.failure is Failure.NONE


def test_an_output_that_grew_by_several_tokens_fails() -> None:
    """Only the newest is at hand, and a mask after the others would be a guess."""
    guide = guide_of(NESTED)
    mask_of(guide, *encode(b"("))
    assert fill(guide, 3, *encode(b"a")) == ENDS
    assert (guide.record.failure, guide.record.message) == (Failure.INTERNAL, "2 tokens were sampled since the last mask")
    assert [fill(guide, length, *encode(b"(")) for length in (0, 1, 4)] == [ENDS] * 3


def test_a_stay_in_the_batch_is_counted_where_there_is_output_to_come_back_with() -> None:
    guide = guide_of(CHOICE)
    guide.place(3)
    mask_of(guide)
    for placement, resumed in ((3, 0), (4, 0), (4, 0)):
        guide.place(placement)
        assert guide.record.resumed == resumed
    mask_of(guide, *encode(b"ab"))
    for placement, resumed in ((4, 0), (9, 1), (9, 1), (2, 2)):
        guide.place(placement)
        assert guide.record.resumed == resumed
    assert mask_of(guide) == expected_mask(CHOICE, tuple(encode(b"ab")))


@pytest.mark.parametrize("constraint", [CHOICE, tree("any", CHOICE, REGEXES[0])], ids=lambda constraint: constraint.name)
def test_a_rejected_token_fails_its_own_request_for_good(constraint: Constraint) -> None:
    pool = MatcherPool(TOKENIZER)
    good, bad, later = (guide_of(constraint, pool) for _ in range(3))
    assert mask_of(good, *encode(b"ab")) == expected_mask(constraint, tuple(encode(b"ab")))
    assert mask_of(bad, REJECTED) == ENDS
    mask_of(later, *encode(b"x "))
    assert mask_of(later, REJECTED) == ENDS
    for guide in (bad, later):
        assert guide.record.failure is Failure.INTERNAL
        assert "doesn't satisfy the grammar" in guide.record.message
        assert [fill(guide, length) for length in (1, 2, 0)] == [ENDS] * 3, "not even once its tokens are discarded"
        assert mask_of(guide, *encode(b"ab")) == ENDS
    assert mask_of(good) == expected_mask(constraint, tuple(encode(b"ab")))
    assert mask_of(guide_of(constraint, pool)) == expected_mask(constraint, ())


@pytest.mark.parametrize(
    ("constraint", "text", "message"),
    [
        (DEAD_END, b"x", "no token can continue the output within the constraint"),
        (DISJOINT, b"abc", "no token can continue the output within the constraints put together"),
    ],
    ids=["of one grammar", "between two"],
)
def test_a_dead_end_says_so_and_stays(constraint: Constraint, text: bytes, message: str) -> None:
    guide = guide_of(constraint)
    assert mask_of(guide) != ENDS
    assert mask_of(guide, *encode(text)) == ENDS
    assert (guide.record.failure, guide.record.message) == (Failure.DEAD_END, message)
    guide.place(7)
    assert [fill(guide, 1), fill(guide, 0), fill(guide, 1, *encode(b"a"))] == [ENDS] * 3
    assert guide.record.failure is Failure.DEAD_END


def test_a_grammar_that_does_not_compile_has_failed_before_its_first_mask() -> None:
    pool = MatcherPool(TOKENIZER)
    guide = Guide.of(pool, "start: nothing")
    assert guide.record.failure is Failure.INTERNAL
    assert "nothing" in guide.record.message
    assert fill(guide, 0) == ENDS
    assert len(pool) == 0


def walk(guide: Guide, chooser: random.Random, tokens: int) -> bool:
    """Sample on, at random; every mask is that of a matcher without a limit worth the name. False once the guide has failed."""
    alone = LLMatcher(TOKENIZER, guide.program, log_level=0)
    assert all(alone.consume_token(token) for token in guide.output)
    for _ in range(tokens):
        allowed = mask_of(guide)
        if guide.record.failure:
            return False
        mask = int.from_bytes(alone.compute_bitmask(), "little")
        assert allowed == {token for token in range(VOCABULARY) if mask >> token & 1}
        newest = chooser.choice(sorted(allowed & {TOKENS.index(letter) for letter in (b"x", b"a", b"b")}))
        assert alone.consume_token(newest)
        mask_of(guide, newest)
        if guide.record.failure:
            return False
    return True


def test_a_grammar_too_complex_by_itself_fails() -> None:
    guide = guide_of(MANY_STATES, MatcherPool(TOKENIZER, lexer_states=1000))
    assert not walk(guide, random.Random(1), 1000)
    assert len(guide.output) > 100
    assert guide.record.failure is Failure.TOO_COMPLEX
    assert "too many states" in guide.record.message
    assert fill(guide, 0) == ENDS


def test_a_lexer_worn_by_others_is_renewed() -> None:
    pool = MatcherPool(TOKENIZER, lexer_states=1000)
    made = []
    chooser = random.Random(2)
    with pytest.MonkeyPatch.context() as patch:
        new_matcher = matchers.new_matcher
        patch.setattr(matchers, "new_matcher", lambda *args: made.append(args) or new_matcher(*args))
        for _ in range(12):
            guide = guide_of(MANY_STATES, pool)
            assert walk(guide, chooser, 150), guide.record
    assert 1 < len(made) < 12, "a lexer serves several, and not all"


def test_a_lexer_worn_by_others_is_renewed_under_a_tree() -> None:
    pool = MatcherPool(TOKENIZER, lexer_states=1000)
    both = tree("all", MANY_STATES, Constraint("letters", LLMatcher.grammar_from_regex("[abcx]*"), frozenset(), 0))
    chooser = random.Random(3)
    for _ in range(8):
        guide = guide_of(both, pool)
        assert mask_of(guide) == {TOKENS.index(b"x")}
        mask_of(guide, TOKENS.index(b"x"))
        for _ in range(150):
            assert mask_of(guide) >= {*encode(b"a"), *encode(b"b")}, guide.record
            mask_of(guide, *encode(chooser.choice([b"a", b"b"])))
        assert guide.record.failure is Failure.NONE


def test_a_lexer_worn_by_all_is_renewed_for_each_that_shares_it() -> None:
    """The first that finds it full has it replaced; for the others it is no less worn by that."""
    pool = MatcherPool(TOKENIZER, lexer_states=1000)
    guides = [guide_of(MANY_STATES, pool) for _ in range(6)]
    choosers = [random.Random(number) for number in range(6)]
    for _ in range(15):
        for guide, chooser in zip(guides, choosers, strict=True):
            assert walk(guide, chooser, 10), (guide.record, len(guide.output))


def test_a_record_counts_each_mask_and_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0, 20_000, 100_000, 160_000, 200_000, 200_500])
    guide = guide_of(CHOICE)
    monkeypatch.setattr("ananke_server.masking.guides.time.perf_counter_ns", lambda: next(moments))
    mask_of(guide, *encode(b"x "))
    fill(guide, 1)
    outcome = guide.record.outcome()
    assert (outcome.steps, outcome.under_50_us, outcome.us_mean) == (3, 2, round(80.5 / 3, 1))
    assert 58 < outcome.us_p99 <= 60
