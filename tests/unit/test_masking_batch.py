"""The masks of a batch against lists of what each language holds, and against matchers that share nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from masking_support import (
    CHOICE,
    CONSTRAINTS,
    DEAD_END,
    EOS_TOKENS,
    NESTED,
    OPEN_SCHEMA,
    REGEXES,
    TOKENIZER,
    TOKENS,
    VOCABULARY,
    Constraint,
    allowed_by,
    empty_masks,
    encode,
    expected_mask,
    mask_of,
    place,
    text_of,
    ticket_table,
    tries,
)

from ananke_server.masking.batch import GuidedBatch, RowRequest
from ananke_server.masking.guides import Guide, GuideStore
from ananke_server.masking.tickets import Failure, Ticket, TicketTable

WALKS = 12
REJECTED = VOCABULARY - 2


@pytest.fixture
def table() -> Iterator[TicketTable]:
    with ticket_table() as table:
        yield table


@pytest.fixture
def batch(table: TicketTable) -> GuidedBatch:
    return GuidedBatch(GuideStore(TOKENIZER, table))


def language_allows(constraint: Constraint, text: bytes) -> set[int]:
    ends = {*EOS_TOKENS} if text in constraint.words else set()
    texts = (token for token in range(VOCABULARY) if not TOKENS[token].startswith(b"<"))
    return ends | {token for token in texts if constraint.is_viable(text + TOKENS[token])}


def canonical(constraint: Constraint, text: bytes) -> set[int]:
    """The one token with which the vocabulary itself would write what must follow; none where nothing must."""
    words = [word for word in constraint.words if word.startswith(text)]
    forced = next((size for size, column in enumerate(zip(*words, strict=False)) if len({*column}) > 1), min(map(len, words)))
    return {encode(words[0][len(text) : forced])[0]} if forced > len(text) else set()


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda constraint: constraint.name)
def test_masks_hold_exactly_what_the_language_allows(constraint: Constraint, batch: GuidedBatch) -> None:
    chooser = random.Random(constraint.name)
    for slot in range(WALKS):
        place(batch, slot, constraint)
    outputs: list[list[int]] = [[] for _ in range(WALKS)]
    pending: list[list[int]] = [[] for _ in range(WALKS)]
    ended = 0
    for _ in range(30):
        walks = [walk for walk, output in enumerate(outputs) if not {*output} & {*EOS_TOKENS}]
        walks = [walk for walk in walks if len(text_of(outputs[walk])) + 3 <= constraint.horizon]
        masks = empty_masks(len(walks) + 1)
        requests = [RowRequest(20 + walk, walk, tuple(pending[walk])) for walk in walks]
        assert batch.fill(requests, masks) == [20 + walk for walk in walks]
        for walk, mask in zip(walks, masks, strict=False):
            output, text = outputs[walk], text_of(outputs[walk])
            allowed, exact = set(allowed_by(mask)), language_allows(constraint, text)
            assert tries(constraint, output) == exact
            assert allowed == exact or (text not in constraint.words and allowed == canonical(constraint, text))
            assert allowed == expected_mask(constraint, tuple(output))
            pending[walk] = [chooser.choice(sorted(allowed))]
            output += pending[walk]
            while chooser.random() < 0.3 and pending[walk][-1] not in EOS_TOKENS:
                pending[walk].append(chooser.choice(sorted(expected_mask(constraint, tuple(output)))))
                output.append(pending[walk][-1])
            ended += output[-1] in EOS_TOKENS
    assert ended


def test_an_open_schema_allows_what_a_matcher_takes(batch: GuidedBatch) -> None:
    chooser = random.Random(5)
    place(batch, 0, OPEN_SCHEMA)
    output: list[int] = []
    for _ in range(25):
        allowed = mask_of(batch, 0, *output[-1:])
        assert allowed == expected_mask(OPEN_SCHEMA, tuple(output)) == tries(OPEN_SCHEMA, output)
        output.append(chooser.choice(sorted(allowed - {*EOS_TOKENS})))


@pytest.mark.parametrize("end", EOS_TOKENS)
def test_every_end_ends(batch: GuidedBatch, end: int) -> None:
    ticket = place(batch, 0, CHOICE)
    assert {*EOS_TOKENS} < mask_of(batch, 0, *encode(b"ab"))
    assert mask_of(batch, 0, end) == {*EOS_TOKENS}
    # Under asynchronous scheduling one more step runs before the engine learns of the end.
    assert mask_of(batch, 0, end) == {*EOS_TOKENS}
    assert batch.store.table.outcome(ticket).failure is Failure.NONE


@pytest.mark.parametrize("threads", [1, 4])
def test_a_rejected_token_fails_its_own_request_for_good(table: TicketTable, threads: int) -> None:
    batch = GuidedBatch(GuideStore(TOKENIZER, table), threads=threads)
    tickets = [place(batch, slot, CHOICE) for slot in range(3)]
    rejections: list[list[int]] = [encode(b"ab"), [REJECTED], [*encode(b"x "), REJECTED, *encode(b"1")]]
    for tokens in (rejections, [[], encode(b"ab"), []], [[], [], [EOS_TOKENS[0], REJECTED]]):
        masks = empty_masks(3)
        assert batch.fill([RowRequest(slot, slot, tokens[slot]) for slot in range(3)], masks) == [0, 1, 2]
        assert [set(allowed_by(mask)) for mask in masks[1:]] == [{*EOS_TOKENS}] * 2
        assert set(allowed_by(masks[0])) == expected_mask(CHOICE, tuple(encode(b"ab")))
    for slot in (1, 2):
        batch.place(slot, batch.store.take(tickets[slot], CHOICE.grammar))
        assert mask_of(batch, slot) == {*EOS_TOKENS}, "resumed after preemption"
    assert [table.outcome(ticket).failure for ticket in tickets] == [Failure.NONE, Failure.INTERNAL, Failure.INTERNAL]
    assert "doesn't satisfy the grammar" in table.outcome(tickets[1]).message


@pytest.mark.parametrize("threads", [1, 4])
def test_a_dead_end_ends_its_request_and_says_so(table: TicketTable, threads: int) -> None:
    batch = GuidedBatch(GuideStore(TOKENIZER, table), threads=threads)
    tickets = [place(batch, slot, constraint) for slot, constraint in enumerate((DEAD_END, CHOICE, DEAD_END))]
    x = encode(b"x")
    steps: list[list[list[int]]] = [[[], [], []], [x, [], []], [[], [], x]]
    for outputs in steps:
        masks = empty_masks(3)
        batch.fill([RowRequest(slot, slot, outputs[slot]) for slot in range(3)], masks)
    assert [set(allowed_by(mask)) for mask in masks] == [{*EOS_TOKENS}, expected_mask(CHOICE, ()), {*EOS_TOKENS}]
    assert [table.outcome(ticket).failure for ticket in tickets] == [Failure.DEAD_END, Failure.NONE, Failure.DEAD_END]


def test_a_matcher_over_its_limits_is_too_complex(table: TicketTable) -> None:
    batch = GuidedBatch(GuideStore(TOKENIZER, table, lexer_states=1000))
    ticket = batch.store.table.open(0)
    batch.place(0, batch.store.take(ticket, "start: /(a|b)*a(a|b){300}c/"))
    chooser = random.Random(1)
    for _ in range(1000):
        allowed = mask_of(batch, 0, *chooser.choices(encode(b"a") + encode(b"b"), k=4))
        if allowed == {*EOS_TOKENS}:
            break
    assert allowed == {*EOS_TOKENS}
    assert batch.store.table.outcome(ticket).failure is Failure.TOO_COMPLEX


def test_rows_without_a_guide_are_passed_over(batch: GuidedBatch) -> None:
    ticket = place(batch, 4, CHOICE)
    masks = empty_masks(3)
    assert batch.fill([RowRequest(0, 1, [5]), RowRequest(7, 4, []), RowRequest(2, 2, [REJECTED])], masks) == [7]
    assert set(allowed_by(masks[0])) == expected_mask(CHOICE, ())
    assert np.array_equal(masks[1:], empty_masks(2))
    assert batch.store.table.outcome(ticket).steps == 1


def test_steps_and_waits_are_counted_by_one_rank_alone(table: TicketTable) -> None:
    counting, silent = (GuidedBatch(GuideStore(TOKENIZER, table, counts=counts)) for counts in (True, False))
    ticket = place(counting, 0, CHOICE)
    for _ in range(2):
        silent.place(0, silent.store.take(ticket, CHOICE.grammar))
    for batch in (counting, silent, counting):
        mask_of(batch, 0)
    outcome = table.outcome(ticket)
    assert (outcome.steps, outcome.resumed) == (2, 0)
    assert 0 < outcome.longest_wait_ns < outcome.wait_ns


def test_slots_are_placed_moved_swapped_and_removed(batch: GuidedBatch) -> None:
    def guide(index: int) -> Guide:
        return Guide(Ticket(index, 1), None)

    first, second, third = map(guide, range(3))
    for slot, placed in ((0, first), (1, second), (1, third), (5, second)):
        batch.place(slot, placed)
    assert batch.slots == {0: first, 1: third, 5: second}
    batch.move(5, 0)
    assert batch.slots == {0: second, 1: third}
    batch.move(4, 1)
    assert batch.slots == {0: second}
    batch.swap(0, 3)
    assert batch.slots == {3: second}
    batch.place(0, first)
    batch.swap(3, 0)
    assert batch.slots == {0: second, 3: first}
    batch.swap(1, 2)
    batch.remove(0)
    batch.remove(0)
    assert batch.slots == {3: first}
    first.released = True
    batch.place(2, third)
    batch.forget_released()
    assert batch.slots == {2: third}


@pytest.mark.parametrize("seed", range(8))
def test_a_batch_filled_in_parallel_equals_one_filled_row_by_row(seed: int) -> None:
    chooser = random.Random(seed)
    constraints = [chooser.choice([*REGEXES, CHOICE, NESTED, OPEN_SCHEMA, DEAD_END]) for _ in range(9)]
    with ticket_table() as serial_table, ticket_table() as parallel_table:
        tables = serial_table, parallel_table
        batches = [GuidedBatch(GuideStore(TOKENIZER, table), threads=threads) for table, threads in zip(tables, (1, 4), strict=True)]
        for batch in batches:
            for slot, constraint in enumerate(constraints):
                place(batch, slot, constraint)
        news: list[list[int]] = [[] for _ in constraints]
        for _ in range(12):
            slots = chooser.sample(range(12), chooser.randint(0, 12))
            requests = [RowRequest(chooser.randrange(99), slot, tuple(news[slot]) if slot < 9 else ()) for slot in slots]
            masks = [empty_masks(12), empty_masks(12)]
            rows = [batch.fill(requests, mask) for batch, mask in zip(batches, masks, strict=True)]
            assert rows[0] == rows[1] == [request.row for request in requests if request.slot < 9]
            assert np.array_equal(masks[0], masks[1])
            for mask, slot in zip(masks[0], [slot for slot in slots if slot < 9], strict=False):
                choices = range(VOCABULARY) if chooser.random() < 0.05 else allowed_by(mask)
                news[slot] = [chooser.choice(choices) for _ in range(chooser.choice((0, 1, 1, 1, 2)))]
        tickets = [[Ticket(slot, 1) for slot in range(9)]] * 2
        failures = [[table.outcome(ticket).failure for ticket in uses] for table, uses in zip(tables, tickets, strict=True)]
        assert failures[0] == failures[1]
