"""Mask processes at work on threads: the masks on the board through any trace of steps, and orders at any moment."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from mask_stage import MaskStage, mask_stage, words_of
from masking_support import (
    CHOICE,
    DEAD_END,
    DEAD_END_TREES,
    EOS_TOKENS,
    NESTED,
    OPEN_SCHEMA,
    REGEXES,
    TREES_OF_CONSTRAINTS,
    VOCABULARY,
    WORDS,
    Constraint,
    Mask,
    encode,
    expected_mask,
)
from waiting import PATIENCE, wait_until

from ananke_server.masking import matchers
from ananke_server.masking.matchers import new_matcher
from ananke_server.masking.placements import NOTHING
from ananke_server.masking.tickets import Failure, Outcome, Ticket

SLOTS = 6
MENU = [None, CHOICE, NESTED, *REGEXES, OPEN_SCHEMA, DEAD_END, *TREES_OF_CONSTRAINTS, *DEAD_END_TREES]
ENDS = Mask(EOS_TOKENS)
MESSAGES = {Failure.NONE: "", Failure.DEAD_END: "no token can continue", Failure.INTERNAL: ""}


@dataclass
class Request:
    """A request as the engine sees it: its prompt's length and its output."""

    constraint: Constraint | None
    ticket: Ticket | None
    prompt: int
    tokens: list[int] = field(default_factory=list)
    failure: Failure = Failure.NONE
    steps: int = 0
    resumed: int = 0
    masked_at: int = 0
    """The output's length at the last mask."""
    stays: int = 0
    masked_stay: int = 0
    """The stay in the batch that the last mask was for."""
    released: bool = False

    def mask(self) -> Mask:
        """What this step must allow. A failure stays."""
        assert self.constraint is not None
        if self.released:
            return ENDS
        self.resumed += bool(self.masked_stay != self.stays and self.masked_stay and self.masked_at)
        self.masked_stay, self.masked_at = self.stays, len(self.tokens)
        self.steps += 1
        mask = expected_mask(self.constraint, tuple(self.tokens))
        self.failure = self.failure or mask.failure
        return ENDS if self.failure else mask


@dataclass(frozen=True)
class Plan:
    """One step; numbers are taken modulo the batch."""

    joins: list[int]
    finishes: list[int]
    preempts: list[tuple[int, bool]]
    """Who leaves for a while, and whether the last token is discarded."""
    resumes: int
    moves: list[tuple[int, int]]
    early_release: bool
    arrives_first: bool
    seed: int


place = st.integers(0, SLOTS - 1)
plans = st.builds(
    Plan,
    joins=st.lists(st.integers(0, len(MENU) - 1), max_size=3),
    finishes=st.lists(place, max_size=1),
    preempts=st.lists(st.tuples(place, st.booleans()), max_size=1),
    resumes=st.integers(0, 2),
    moves=st.lists(st.tuples(place, place), max_size=1),
    early_release=st.sampled_from([False] * 9 + [True]),
    arrives_first=st.booleans(),
    seed=st.integers(0, 2**16),
)


class Trace:
    """Follows plans: requests through the slots of a batch, and every mask of every step held to what it must be."""

    def __init__(self, stage: MaskStage) -> None:
        self.stage, self.placements = stage, stage.placements()
        self.slots: dict[int, Request] = {}
        self.preempted: list[Request] = []
        self.number = 0

    def step(self, plan: Plan) -> None:
        chooser = random.Random(plan.seed)
        self.number += 1
        self.leave(plan)
        self.enter(plan, chooser)
        for first, second in plan.moves:
            if first != second:
                self.swap(first, second)
        if plan.early_release and self.slots:
            self.release(self.slots[max(self.slots)])
        slots = chooser.sample(sorted(self.slots), chooser.randint(len(self.slots) // 2, len(self.slots)))
        self.fill(slots, plan.arrives_first)
        for slot in slots:
            if chooser.random() < 0.85:  # else a chunk of a prefill
                self.sample(self.slots[slot], chooser)

    def leave(self, plan: Plan) -> None:
        ended = [slot for slot, request in self.slots.items() if len(request.tokens) > 20 or {*request.tokens[:-1]} & ENDS]
        for slot in {*ended, *(number for number in plan.finishes if number in self.slots)}:
            # The slot is left as it is: not every engine says that a request has ended.
            self.check(self.slots.pop(slot))
        for slot, discards in plan.preempts:
            if (request := self.slots.pop(slot, None)) is not None:
                if discards and request.tokens:
                    request.tokens.pop()
                self.preempted.append(request)

    def enter(self, plan: Plan, chooser: random.Random) -> None:
        entering = [self.preempted.pop(0) for _ in range(min(plan.resumes, len(self.preempted)))]
        for choice in plan.joins:
            constraint = MENU[choice]
            ticket = None if constraint is None else self.stage.open(constraint)
            entering.append(Request(constraint, ticket, prompt=chooser.randint(1, 4)))
        free = [slot for slot in range(SLOTS) if slot not in self.slots]
        chooser.shuffle(free)
        for request in entering:
            if not free:
                self.preempted.append(request)
                continue
            slot = free.pop()
            self.slots[slot] = request
            request.stays += 1
            if request.ticket is None:
                self.placements.remove(slot)
            else:
                self.placements.place(slot, request.ticket, request.prompt)

    def swap(self, first: int, second: int) -> None:
        self.placements.swap(first, second)
        one, other = self.slots.pop(first, None), self.slots.pop(second, None)
        self.slots |= {slot: request for slot, request in ((second, one), (first, other)) if request is not None}

    def fill(self, slots: list[int], arrives_first: bool) -> None:
        stage, step = self.stage, self.number
        stage.board.masks[stage.board.part(step), :, :WORDS] = 0x5A5A5A5A

        def arrive() -> None:
            for slot, request in self.slots.items():
                stage.board.lengths[slot] = request.prompt + len(request.tokens)
                stage.board.tokens[slot] = [7, *request.tokens][-1]
            stage.arrive(step)

        if arrives_first:
            arrive()
        asked = self.placements.ask(step, np.array(slots, dtype=np.int32))
        if not arrives_first:
            arrive()
        stage.wait(step, asked)
        constrained = [(row, self.slots[slot]) for row, slot in enumerate(slots) if self.slots[slot].constraint is not None]
        masks = stage.board.masks[stage.board.part(step)]
        assert masks[: asked.masks, WORDS].tolist() == [row for row, _ in constrained]
        for mask, (row, request) in zip(masks, constrained, strict=False):
            assert np.array_equal(mask[:WORDS], words_of(request.mask())), (step, row, request)
        assert (masks[asked.masks :, :WORDS] == 0x5A5A5A5A).all(), "nobody asked for these"

    def sample(self, request: Request, chooser: random.Random) -> None:
        choices = list(range(VOCABULARY))
        if request.constraint is not None and chooser.random() > 0.03:
            choices = sorted(expected_mask(request.constraint, tuple(request.tokens)))
        request.tokens.append(chooser.choice(choices))

    def check(self, request: Request) -> None:
        """Release a request and hold its outcome to what has happened to it."""
        if (outcome := self.release(request)) is not None:
            assert (outcome.failure, outcome.steps, outcome.resumed) == (request.failure, request.steps, request.resumed), request
            assert MESSAGES[request.failure] in outcome.message
            assert bool(outcome.message) == bool(request.failure)

    def release(self, request: Request) -> Outcome | None:
        if request.ticket is None or request.released:
            return None
        request.released = True
        return self.stage.release(request.ticket)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(plans, min_size=4, max_size=16), st.integers(1, 3), st.integers(2, 5))
def test_every_mask_is_right_through_any_trace(steps: list[Plan], processes: int, parts: int) -> None:
    with mask_stage(rows=SLOTS, processes=processes, parts=parts) as stage:
        trace = Trace(stage)
        for plan in steps:
            trace.step(plan)
        for request in (*trace.slots.values(), *trace.preempted):
            trace.check(request)


@pytest.fixture
def stage() -> Iterator[MaskStage]:
    with mask_stage(processes=2) as stage:
        yield stage


@dataclass
class SlowCompiler:
    """Stands in for ``new_matcher``: takes as long as it is let."""

    go: threading.Event = field(default_factory=threading.Event)
    started: list[str] = field(default_factory=list)

    def __call__(self, tokenizer: LLTokenizer, grammar: str, lexer_states: int) -> LLMatcher:
        self.started.append(grammar)
        assert self.go.wait(PATIENCE)
        return new_matcher(tokenizer, grammar, lexer_states)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowCompiler]:
    compiler = SlowCompiler()
    monkeypatch.setattr(matchers, "new_matcher", compiler)
    yield compiler
    compiler.go.set()


def step_of(stage: MaskStage, number: int, ticket: Ticket, *output: int, slot: int = 0) -> set[int]:
    """The mask of one request alone."""
    placements = stage.placements()
    placements.place(slot, ticket)
    stage.board.lengths[slot], stage.board.tokens[slot] = len(output), [0, *output][-1]
    stage.arrive(number)
    return stage.masks(number, placements.ask(number, np.array([slot])))[0]


def test_orders_are_carried_out_while_tokens_are_on_their_way(stage: MaskStage) -> None:
    placements = stage.placements()
    tickets = [stage.open(CHOICE) for _ in range(2)]
    for slot, ticket in enumerate(tickets):
        placements.place(slot, ticket)
    asked = placements.ask(1, np.arange(2))
    time.sleep(0.01)
    assert not stage.board.done.any(), "nothing has arrived"
    other = stage.open(NESTED)
    stage.release(tickets[0])
    assert not stage.board.done.any()
    stage.arrive(1)
    assert stage.masks(1, asked) == {0: ENDS, 1: expected_mask(CHOICE, ())}, "of what was released nothing is known any more"
    assert step_of(stage, 2, other) == expected_mask(NESTED, ())


def test_two_steps_announced_are_filled_in_turn(stage: MaskStage) -> None:
    placements = stage.placements()
    ticket = stage.open(CHOICE)
    placements.place(3, ticket)
    first = placements.ask(1, np.array([3]))
    second = placements.ask(2, np.array([9, 3]) % 8)
    x = encode(b"x ")
    stage.arrive(1)
    assert stage.masks(1, first) == {0: expected_mask(CHOICE, ())}
    assert stage.board.done[ticket.owner, 0] == 1
    stage.board.lengths[3], stage.board.tokens[3] = 1, x[0]
    stage.arrive(2)
    assert stage.masks(2, second) == {1: expected_mask(CHOICE, tuple(x))}
    assert stage.release(ticket).steps == 2


def test_steps_of_several_batches_are_announced_ahead_of_a_pipeline() -> None:
    """Three stages have three batches under way, and the engine announces a fourth: a request's next step is three after its last."""
    with mask_stage(processes=2, parts=5) as stage:
        placements = stage.placements()
        tickets = [stage.open(CHOICE) for _ in range(3)]
        for slot, ticket in enumerate(tickets):
            placements.place(slot, ticket)
        asked = {step: placements.ask(step, np.array([(step - 1) % 3])) for step in range(1, 5)}
        word = encode(b"x ")
        for step in range(1, 12):
            slot, known = (step - 1) % 3, min((step - 1) // 3, len(word))
            stage.board.lengths[slot], stage.board.tokens[slot] = known, [0, *word][known]
            stage.arrive(step)
            assert stage.masks(step, asked.pop(step)) == {0: expected_mask(CHOICE, tuple(word[:known]))}
            asked[step + 4] = placements.ask(step + 4, np.array([(step + 3) % 3]))


def test_a_step_is_over_in_the_processes_that_it_concerns_alone(stage: MaskStage) -> None:
    ticket = stage.open(CHOICE)
    step_of(stage, 5, ticket)
    assert stage.board.done[ticket.owner, 0] == 5
    assert stage.board.done[1 - ticket.owner, 0] == 0
    assert stage.placements().ask(6, np.array([0])) is NOTHING


def test_a_step_that_is_over_is_left_alone_for_its_part_may_be_written_for_another(stage: MaskStage) -> None:
    """Rung for step 2, a process that had no part in step 1 finds the rows of step 4, which the engine is about to announce."""
    busy, late = stage.prepare_at(0, CHOICE), stage.prepare_at(1, CHOICE)
    placements, board = stage.placements(), stage.board
    placements.place(0, busy)
    stage.arrive(1)
    stage.wait(1, placements.ask(1, np.array([0])))
    placements.place(1, late)
    second = placements.ask(2, np.array([0, 1]))
    placements.place(2, third := stage.prepare_at(1, NESTED))
    placements._write(1, np.array([2]))
    board.lengths[2] = 9  # of whoever had the slot before
    stage.arrive(2)
    stage.wait(2, second)
    assert stage.release(third)[:3] == (Failure.NONE, "", 0)


def test_a_compile_that_takes_long_holds_up_no_step(stage: MaskStage, slow: SlowCompiler) -> None:
    slow.go.set()
    running = stage.open(CHOICE)
    slow.go.clear()
    stage.order(running.owner, "prepare", 100, NESTED.grammar, False)
    wait_until(lambda: NESTED.grammar in slow.started)
    output: list[int] = []
    for number, token in enumerate((*encode(b"ab"), EOS_TOKENS[0]), start=1):
        assert step_of(stage, number, running, *output) == expected_mask(CHOICE, tuple(output))
        output.append(token)
    # Neither is a request whose grammar is there already held up.
    stage.order(running.owner, "prepare", 101, CHOICE.grammar, False)
    assert stage.answer(running.owner, "ready", 101) == [Failure.NONE, ""]
    assert step_of(stage, 8, Ticket(100, running.owner)) == ENDS, "not ready yet"
    slow.go.set()
    assert stage.answer(running.owner, "ready", 100) == [Failure.NONE, ""]
    assert step_of(stage, 9, Ticket(100, running.owner)) == expected_mask(NESTED, ())


def test_unknown_and_repeated_releases_harm_nobody(stage: MaskStage) -> None:
    kept, ticket = stage.open(CHOICE), stage.open(NESTED)
    assert stage.release(Ticket(10**6, kept.owner)) == Outcome()
    step_of(stage, 1, ticket)
    assert stage.release(ticket).steps == 1
    assert stage.release(ticket) == Outcome()
    assert step_of(stage, 2, kept) == expected_mask(CHOICE, ())
    assert step_of(stage, 3, ticket) == ENDS


def test_a_guide_released_while_it_is_made_is_not_kept(stage: MaskStage, slow: SlowCompiler) -> None:
    stage.order(0, "prepare", 50, CHOICE.grammar, False)
    wait_until(lambda: bool(slow.started))
    assert stage.release(Ticket(50, 0)) == Outcome()
    slow.go.set()
    assert stage.answer(0, "ready", 50) == [Failure.NONE, ""]
    assert stage.crew[0]._guides == {}
    assert stage.crew[0]._preparing == set()
    assert step_of(stage, 1, Ticket(50, 0)) == ENDS


@pytest.mark.parametrize("program", ["start: nothing", '{"all": ["start: nothing", "start: /a/"]}'])
def test_a_grammar_that_does_not_compile_says_why(stage: MaskStage, program: str) -> None:
    stage.order(1, "prepare", 7, program, False)
    failure, message = stage.answer(1, "ready", 7)
    assert failure == Failure.INTERNAL
    assert "nothing" in message
    assert step_of(stage, 1, Ticket(7, 1)) == ENDS
    assert stage.release(Ticket(7, 1))[:2] == (Failure.INTERNAL, message)


@pytest.mark.parametrize("program", ['{"all": ', '{"all": 5}', '{"any": [' * 3000])
def test_what_is_no_program_fails_its_ticket_and_not_the_process(stage: MaskStage, program: str) -> None:
    stage.order(1, "prepare", 8, program, False)
    failure, message = stage.answer(1, "ready", 8)
    assert failure == Failure.INTERNAL
    assert "Error" in message
    assert step_of(stage, 1, stage.open(CHOICE)) == expected_mask(CHOICE, ())


def test_what_steps_waited_for_masks_is_counted_once_it_is_known(stage: MaskStage) -> None:
    tickets = [stage.open(CHOICE) for _ in range(4)]
    placements = stage.placements()
    for slot, ticket in enumerate(tickets):
        placements.place(slot, ticket)
    waits = [(1_000, 6_000), (50_000, 53_000), (90_000, 80_000), (100_000, 100_500)]
    for step, stamps in enumerate(waits, start=1):
        slots = np.arange(4) if step < 4 else np.array([0, 1])
        stage.arrive(step)
        stage.wait(step, placements.ask(step, slots))
        stage.board.stamps[stage.board.part(step)] = stamps
    outcomes = [stage.release(ticket) for ticket in tickets]
    # A step's wait is known when the next one's tokens are there: of the last one nothing is.
    assert [(outcome.wait_us_mean, outcome.wait_us_max) for outcome in outcomes[:2]] == [(round((5 + 3 + 0) / 3, 1), 5.0)] * 2
    assert [outcome.steps for outcome in outcomes] == [4, 4, 3, 3]


def test_times_are_counted_since_the_last_call(stage: MaskStage) -> None:
    ticket = stage.open(CHOICE)
    for step in (1, 2, 3):
        step_of(stage, step, ticket)
    stage.order(ticket.owner, "times", 6)
    [times] = stage.answer(ticket.owner, "times", 6)
    assert (times["steps"], times["rows"], times["found"]) == (3, 3, 0)
    assert times["filled_ns"] > 0
    stage.order(ticket.owner, "times", 6)
    assert stage.answer(ticket.owner, "times", 6) == [{}]


@pytest.mark.parametrize("moment", ["idle", "while tokens are on their way", "while a grammar is compiled"])
def test_a_process_ends_when_its_connection_closes(moment: str, slow: SlowCompiler) -> None:
    with mask_stage() as stage:
        if moment == "while tokens are on their way":
            slow.go.set()
            placements = stage.placements()
            placements.place(0, stage.open(CHOICE))
            placements.ask(1, np.array([0]))
        elif moment == "while a grammar is compiled":
            stage.order(0, "prepare", 1, CHOICE.grammar, False)
            wait_until(lambda: bool(slow.started))
        time.sleep(0.01)
        assert stage.threads[0].is_alive()
        stage.connections[0].close()
        stage.threads[0].join(PATIENCE)
        assert not stage.threads[0].is_alive()
        slow.go.set()
