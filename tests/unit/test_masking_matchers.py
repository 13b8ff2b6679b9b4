"""The matchers' pool and a worker's guides: what is kept, what is dropped, and who comes first."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from llguidance import LLMatcher, LLTokenizer
from masking_support import CHOICE, DEAD_END, NESTED, REGEXES, TOKENIZER, Mask, allowed_by, encode, expected_mask, ticket_table, wait_until

from ananke_server.masking import matchers
from ananke_server.masking.batch import GuidedBatch, RowRequest
from ananke_server.masking.guides import Guide, GuideStore
from ananke_server.masking.matchers import MatcherPool, failure_of, new_matcher
from ananke_server.masking.tickets import Failure, Ticket, TicketTable

REGEX = REGEXES[0]


@pytest.fixture
def table() -> Iterator[TicketTable]:
    with ticket_table() as table:
        yield table


@pytest.fixture
def store(table: TicketTable) -> GuideStore:
    return GuideStore(TOKENIZER, table, rank=2)


class Compiler:
    """Stands in for ``new_matcher``: counts its matchers, and holds up those made in the background until ``go`` is set."""

    def __init__(self) -> None:
        self.made: list[LLMatcher] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, tokenizer: LLTokenizer, grammar: str, lexer_states: int) -> LLMatcher:
        assert threading.current_thread() is threading.main_thread() or self.go.wait(10)
        self.made.append(new_matcher(tokenizer, grammar, lexer_states))
        return self.made[-1]


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    compiler = Compiler()
    monkeypatch.setattr(matchers, "new_matcher", compiler)
    yield compiler
    compiler.go.set()


def prepare(store: GuideStore, ticket: Ticket, grammar: str) -> None:
    store.prepare(ticket, grammar)
    wait_until(lambda: store.table.ready_ranks(ticket) == 1)


def matcher_of(guide: Guide) -> LLMatcher:
    """The matcher of a guide that follows a single grammar."""
    assert guide.matcher is not None
    [leaf] = guide.matcher.leaves
    return leaf.matcher


def mask_of(guide: Guide, store: GuideStore, *tokens: int) -> Mask:
    batch = GuidedBatch(store)
    batch.place(0, guide)
    bitmask = batch._eos_only.view("int32").copy().reshape(1, -1)
    batch.fill([RowRequest(0, 0, tokens)], bitmask)
    return Mask(allowed_by(bitmask[0]))


def test_a_pool_gives_back_what_it_was_given_at_its_grammars_start(compiler: Compiler) -> None:
    pool = MatcherPool(TOKENIZER)
    matcher = pool.take("choice", CHOICE.grammar)
    assert matcher.consume_tokens(encode(b"abc1"))
    pool.give_back("choice", matcher)
    other = pool.take("regex", REGEX.grammar)
    assert len(pool) == 1
    assert pool.take("choice", CHOICE.grammar) is matcher
    assert len(pool) == 0
    assert pool.take("choice", CHOICE.grammar) is not matcher
    assert matcher.consume_tokens(encode(b"true"))
    assert len({id(made) for made in compiler.made}) == 3
    assert other is compiler.made[1]


def test_a_pool_is_bounded_and_lets_the_least_recently_used_grammar_go() -> None:
    pool = MatcherPool(TOKENIZER, capacity=3)
    for key in ("old", "old", "new"):
        pool.give_back(key, new_matcher(TOKENIZER, CHOICE.grammar))
    kept = pool.take("old", CHOICE.grammar)
    pool.give_back("old", kept)
    newest = [new_matcher(TOKENIZER, CHOICE.grammar) for _ in range(2)]
    for matcher in newest:
        pool.give_back("newest", matcher)
    assert len(pool) == 3
    assert pool.take("newest", CHOICE.grammar) in newest
    assert len(pool) == 2
    pool.take("new", CHOICE.grammar)
    assert len(pool) == 2, "of new nothing was left"
    pool.take("old", CHOICE.grammar)
    assert len(pool) == 1


def test_a_pool_full_of_one_grammar_stays_bounded() -> None:
    pool = MatcherPool(TOKENIZER, capacity=2)
    for _ in range(5):
        pool.give_back("choice", new_matcher(TOKENIZER, CHOICE.grammar))
    assert len(pool) == 2


@pytest.mark.parametrize("grammar", [CHOICE.grammar, "start: nothing", DEAD_END.grammar])
def test_a_matcher_in_its_error_state_never_returns_to_the_pool(grammar: str) -> None:
    pool = MatcherPool(TOKENIZER)
    matcher = pool.take("key", grammar)
    matcher.consume_tokens(encode(b"xx"))
    assert matcher.is_error()
    pool.give_back("key", matcher)
    assert len(pool) == 0


def test_failures_are_told_apart() -> None:
    rejected = new_matcher(TOKENIZER, CHOICE.grammar)
    rejected.consume_tokens(encode(b"false"))
    assert failure_of(rejected)[0] is Failure.INTERNAL
    dead = new_matcher(TOKENIZER, DEAD_END.grammar)
    dead.consume_tokens(encode(b"x"))
    dead.compute_bitmask()
    assert failure_of(dead)[0] is Failure.DEAD_END
    assert "<state>" not in failure_of(rejected)[1]


def test_prepare_returns_at_once_and_the_ticket_says_when(store: GuideStore, compiler: Compiler) -> None:
    compiler.go.clear()
    ticket = store.table.open(0)
    store.prepare(ticket, CHOICE.grammar)
    assert store.table.ready_ranks(ticket) == 0
    compiler.go.set()
    wait_until(lambda: store.table.ready_ranks(ticket) == 1)
    guide = store.take(ticket, CHOICE.grammar)
    assert matcher_of(guide) is compiler.made[0]
    assert (guide.ticket, guide.consumed) == (ticket, 0)
    assert len(compiler.made) == 1


def test_take_without_prepare_makes_the_guide(store: GuideStore) -> None:
    guide = store.take(store.table.open(0), NESTED.grammar)
    assert mask_of(guide, store, *encode(b"(")) == expected_mask(NESTED, tuple(encode(b"(")))


def test_a_guide_taken_again_starts_over(store: GuideStore) -> None:
    ticket = store.table.open(0)
    guide = store.take(ticket, CHOICE.grammar)
    mask_of(guide, store, *encode(b"abc"))
    assert store.table.outcome(ticket).resumed == 0
    assert store.take(ticket, CHOICE.grammar) is guide
    assert store.table.outcome(ticket).resumed == 1
    assert guide.consumed == 0
    assert mask_of(guide, store) == expected_mask(CHOICE, ())


def test_a_released_matcher_serves_the_next_request_of_its_grammar(store: GuideStore, compiler: Compiler) -> None:
    first, second, third = (store.table.open(index) for index in range(3))
    prepare(store, first, CHOICE.grammar)
    held = store.take(first, CHOICE.grammar)
    mask_of(held, store, *encode(b"ab"))
    other = store.take(second, CHOICE.grammar)
    assert matcher_of(other) is compiler.made[1], "not shared while the first is at work"
    store.release(first)
    assert held.released
    assert held.matcher is None
    reused = store.take(third, CHOICE.grammar)
    assert matcher_of(reused) is compiler.made[0]
    assert mask_of(reused, store) == expected_mask(CHOICE, ())
    assert len(compiler.made) == 2


def test_a_guide_released_while_it_is_made_is_not_kept(store: GuideStore, compiler: Compiler) -> None:
    compiler.go.clear()
    ticket = store.table.open(0)
    store.prepare(ticket, CHOICE.grammar)
    store.release(ticket)
    compiler.go.set()
    wait_until(lambda: store.table.ready_ranks(ticket) == 1)
    assert store._guides == {}
    assert matcher_of(store.take(store.table.open(1), CHOICE.grammar)) is compiler.made[0]
    again = store.table.open(0)
    prepare(store, again, CHOICE.grammar)
    assert matcher_of(store.take(again, CHOICE.grammar)) is compiler.made[1]


def test_unknown_and_repeated_releases_harm_nobody(store: GuideStore) -> None:
    ticket, other = store.table.open(0), store.table.open(1)
    store.release(Ticket(0, 99))
    guide = store.take(ticket, CHOICE.grammar)
    kept = store.take(other, CHOICE.grammar)
    store.release(ticket)
    store.release(ticket)
    assert guide.released
    assert not kept.released
    assert mask_of(kept, store) == expected_mask(CHOICE, ())
    assert store.table.outcome(ticket).failure is Failure.NONE


def test_a_released_guide_never_sets_its_request_free(store: GuideStore) -> None:
    guide = store.take(store.table.open(0), CHOICE.grammar)
    store.release(guide.ticket)
    assert mask_of(guide, store, *encode(b"zz")) == {*TOKENIZER.eos_tokens}


@pytest.mark.parametrize("prepared", [True, False])
def test_a_grammar_that_does_not_compile_fails_its_ticket(store: GuideStore, prepared: bool) -> None:
    ticket = store.table.open(0)
    if prepared:
        prepare(store, ticket, "start: nothing")
    guide = store.take(ticket, "start: nothing")
    assert guide.matcher is None
    assert mask_of(guide, store) == {*TOKENIZER.eos_tokens}
    outcome = store.table.outcome(ticket)
    assert outcome.failure is Failure.INTERNAL
    assert "nothing" in outcome.message


def test_a_compile_that_is_late_writes_nothing_into_the_next_use(store: GuideStore, compiler: Compiler) -> None:
    compiler.go.clear()
    late = store.table.open(0)
    store.prepare(late, "start: nothing")
    store.release(late)
    current = store.table.open(0)
    compiler.go.set()
    wait_until(lambda: len(compiler.made) == 1)
    prepare(store, current, CHOICE.grammar)
    assert store.table.outcome(current).failure is Failure.NONE
    assert store.take(current, CHOICE.grammar).matcher is not None


@pytest.mark.parametrize("released_first", [False, True])
def test_a_guide_taken_while_it_is_prepared_is_the_one_released(store: GuideStore, compiler: Compiler, released_first: bool) -> None:
    compiler.go.clear()
    ticket = store.table.open(0)
    store.prepare(ticket, CHOICE.grammar)
    guide = store.take(ticket, CHOICE.grammar)
    if released_first:
        store.release(ticket)
    compiler.go.set()
    wait_until(lambda: store.table.ready_ranks(ticket) == 1)
    if not released_first:
        assert store.take(ticket, CHOICE.grammar) is guide
        store.release(ticket)
    assert guide.released
    assert store._guides == {}
