"""The matchers' pool: copies that know nothing of each other, what is kept and what is let go, and failures told apart."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from masking_support import (
    CHOICE,
    DEAD_END,
    EOS_TOKENS,
    NESTED,
    REGEXES,
    TOKENIZER,
    Constraint,
    Mask,
    allowed_by,
    encode,
    expected_mask,
)
from waiting import PATIENCE

from ananke_server.masking import matchers
from ananke_server.masking.matchers import MatcherPool, error_text, failure_of, grammar_key, new_matcher
from ananke_server.masking.tickets import Failure

REGEX = REGEXES[0]


class Compiler:
    """Stands in for ``new_matcher``: counts what is compiled, and holds it up until ``go`` is set."""

    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, tokenizer: LLTokenizer, grammar: str, lexer_states: int) -> LLMatcher:
        self.compiled.append(grammar)
        assert self.go.wait(PATIENCE)
        return new_matcher(tokenizer, grammar, lexer_states)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    compiler = Compiler()
    monkeypatch.setattr(matchers, "new_matcher", compiler)
    return compiler


def take(pool: MatcherPool, constraint: Constraint) -> LLMatcher:
    return pool.take(grammar_key(constraint.grammar), constraint.grammar)[0]


def mask(matcher: LLMatcher) -> Mask:
    return Mask(allowed_by(np.frombuffer(matcher.compute_bitmask(), dtype=np.int32)))


def test_a_grammar_is_compiled_once_and_every_copy_starts_at_its_start(compiler: Compiler) -> None:
    pool = MatcherPool(TOKENIZER)
    copies = [take(pool, CHOICE)]
    for text in (b"abc1", b"x ", b"zz", b""):
        copies[-1].consume_tokens(encode(text))
        copies.append(take(pool, CHOICE))
        assert mask(copies[-1]) == expected_mask(CHOICE, ())
    assert compiler.compiled == [CHOICE.grammar]
    assert len(pool) == 1
    assert grammar_key(CHOICE.grammar) in pool
    assert grammar_key(NESTED.grammar) not in pool


@pytest.mark.parametrize("seed", range(4))
def test_copies_are_independent(seed: int) -> None:
    chooser = random.Random(seed)
    pool = MatcherPool(TOKENIZER)
    menu = [CHOICE, NESTED, *REGEXES, DEAD_END]
    walks: list[tuple[Constraint, LLMatcher, list[int]]] = []
    for _ in range(150):
        if len(walks) < 12:
            constraint = chooser.choice(menu)
            walks.append((constraint, take(pool, constraint), []))
        constraint, matcher, output = chooser.choice(walks)
        expected = expected_mask(constraint, tuple(output))
        assert mask(matcher) == expected
        assert matcher.is_error() == bool(expected.failure)
        if matcher.is_error() or {*output} & {*EOS_TOKENS} or chooser.random() < 0.1:
            walks.remove((constraint, matcher, output))
            continue
        output.append(chooser.choice(sorted(expected)) if chooser.random() < 0.9 else 66)
        matcher.consume_token(output[-1])


def test_a_pool_is_bounded_and_lets_the_least_recently_used_grammar_go(compiler: Compiler) -> None:
    pool = MatcherPool(TOKENIZER, capacity=3)
    for constraint in (CHOICE, NESTED, REGEX, CHOICE, DEAD_END):
        take(pool, constraint)
    assert len(pool) == 3
    assert [grammar_key(kept.grammar) in pool for kept in (CHOICE, NESTED, REGEX, DEAD_END)] == [True, False, True, True]
    take(pool, REGEX)
    take(pool, NESTED)
    assert [grammar_key(kept.grammar) in pool for kept in (CHOICE, NESTED, REGEX, DEAD_END)] == [False, True, True, True]
    assert len(compiler.compiled) == 5


def test_a_copy_outlives_its_grammars_stay_in_the_pool() -> None:
    pool = MatcherPool(TOKENIZER, capacity=1)
    matcher = take(pool, CHOICE)
    take(pool, NESTED)
    assert matcher.consume_tokens(encode(b"x "))
    assert mask(matcher) == expected_mask(CHOICE, tuple(encode(b"x ")))


def test_a_pool_over_its_memory_lets_the_older_half_go(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = 1 << 30
    monkeypatch.setattr(matchers, "_resident_bytes", lambda: resident)
    pool = MatcherPool(TOKENIZER, max_bytes=1000)
    for number in range(15):
        pool.take(str(number), CHOICE.grammar)
    resident += 1001
    pool.take("15", CHOICE.grammar)
    assert len(pool) == 8
    assert "7" not in pool
    assert "8" in pool
    resident -= 1
    for number in range(16, 32):
        pool.take(str(number), CHOICE.grammar)
    assert len(pool) == 24


@pytest.mark.parametrize("grammar", ["start: nothing", "start: /(/", '{"grammars": []}'])
def test_a_grammar_in_error_is_not_kept(compiler: Compiler, grammar: str) -> None:
    pool = MatcherPool(TOKENIZER)
    assert pool.take("key", grammar)[0].is_error()
    assert pool.take("key", grammar)[0].is_error()
    assert len(pool) == 0
    assert len(compiler.compiled) == 2


def test_a_retired_grammar_is_compiled_anew_and_worn_where_others_share_it(compiler: Compiler) -> None:
    pool = MatcherPool(TOKENIZER)
    key = grammar_key(CHOICE.grammar)
    first, alone = pool.take(key, CHOICE.grammar)
    assert not pool.retire(key, alone), "the first has nobody to blame but itself"
    assert key not in pool
    (_, shared), (_, with_another) = (pool.take(key, CHOICE.grammar) for _ in range(2))
    assert shared is with_another is not alone
    assert len(compiler.compiled) == 2
    assert pool.retire(key, shared)
    newest = pool.take(key, CHOICE.grammar)[1]
    assert len(compiler.compiled) == 3
    assert pool.retire(key, with_another), "no less worn for the second that finds it so"
    assert not pool.retire(key, alone)
    assert pool.take(key, CHOICE.grammar)[1] is newest, "and what is new stays"
    assert first.consume_tokens(encode(b"true"))
    assert mask(first) == {*EOS_TOKENS}


def test_threads_may_take_at_the_same_time(compiler: Compiler) -> None:
    """A copy is at its start and of its own grammar, whoever compiles what meanwhile."""
    pool = MatcherPool(TOKENIZER, capacity=2)
    menu = [CHOICE, NESTED, *REGEXES]
    texts = {constraint.name: encode(sorted(constraint.words)[0])[:1] for constraint in menu}

    def work(number: int) -> bool:
        constraint = menu[number % len(menu)]
        matcher = take(pool, constraint)
        right = mask(matcher) == expected_mask(constraint, ())
        newest = texts[constraint.name]
        return right and matcher.consume_tokens(newest) and mask(matcher) == expected_mask(constraint, tuple(newest))

    # Made ahead: what is cached here must not be contended for there.
    for constraint in menu:
        expected_mask(constraint, ()), expected_mask(constraint, tuple(texts[constraint.name]))
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(300)))
    assert len(pool) == 2


def test_a_slow_compile_holds_up_no_other_grammar(compiler: Compiler) -> None:
    pool = MatcherPool(TOKENIZER)
    take(pool, CHOICE)
    compiler.go.clear()
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(take, pool, NESTED)
        while len(compiler.compiled) < 2:
            pass
        assert mask(take(pool, CHOICE)) == expected_mask(CHOICE, ())
        assert grammar_key(NESTED.grammar) not in pool
        assert not slow.done()
        compiler.go.set()
        assert mask(slow.result(PATIENCE)) == expected_mask(NESTED, ())


def test_failures_are_told_apart() -> None:
    rejected = new_matcher(TOKENIZER, CHOICE.grammar)
    rejected.consume_tokens(encode(b"false"))
    assert failure_of(rejected)[0] is Failure.INTERNAL
    dead = new_matcher(TOKENIZER, DEAD_END.grammar)
    dead.consume_tokens(encode(b"x"))
    dead.compute_bitmask()
    assert failure_of(dead)[0] is Failure.DEAD_END
    assert "<state>" not in failure_of(rejected)[1]
    complex_one = new_matcher(TOKENIZER, "start: /(a|b)*a(a|b){300}c/", 200)
    while not complex_one.is_error():
        complex_one.compute_bitmask()
        complex_one.consume_tokens(encode(b"a"))
    assert failure_of(complex_one)[0] is Failure.TOO_COMPLEX
    faulty = new_matcher(TOKENIZER, "start: nothing")
    assert failure_of(faulty)[0] is Failure.INTERNAL
    assert "nothing" in error_text(faulty)
