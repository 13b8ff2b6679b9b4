"""The V2 adapter on a runner's state held in CPU tensors: its slots, what it replays, and rows in any order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from masking_support import (
    CHOICE,
    DEAD_END,
    DEAD_END_TREES,
    EOS_TOKENS,
    LOGITS_WIDTH,
    NESTED,
    OPEN_SCHEMA,
    REGEXES,
    TOKENIZER,
    TREES_OF_CONSTRAINTS,
    VOCABULARY,
    Constraint,
    Mask,
    encode,
    expected_mask,
    order_args,
    ticket_table,
)

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from vllm import SamplingParams  # noqa: E402
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcRequestState  # noqa: E402

from ananke_server.masking import vllm_v2  # noqa: E402
from ananke_server.masking.batch import GuidedBatch  # noqa: E402
from ananke_server.masking.guides import GuideStore  # noqa: E402
from ananke_server.masking.tickets import Failure, Ticket, TicketOffice, TicketTable  # noqa: E402
from ananke_server.masking.vllm_v2 import LlguidanceV2  # noqa: E402

SLOTS = 5
MAX_TOKENS = 96
MENU = [None, CHOICE, NESTED, *REGEXES, OPEN_SCHEMA, DEAD_END, *TREES_OF_CONSTRAINTS, *DEAD_END_TREES]


class HostEvent:
    """A CUDA event where every copy is over at once."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


def states() -> LogitsProcRequestState:
    """A runner's buffers, full of what earlier requests left."""
    return LogitsProcRequestState(
        device=torch.device("cpu"),
        max_num_reqs=SLOTS,
        vocab_size=LOGITS_WIDTH,
        all_token_ids=SimpleNamespace(gpu=torch.full((SLOTS, MAX_TOKENS), 7, dtype=torch.int32)),
        prompt_len=SimpleNamespace(np=np.full(SLOTS, 9, dtype=np.int32)),
        prefill_len=SimpleNamespace(np=np.full(SLOTS, 9, dtype=np.int32)),
        total_len=SimpleNamespace(gpu=torch.full((SLOTS,), 9, dtype=torch.int32)),
    )


@contextmanager
def adapter_on(store: GuideStore, threads: int = 1) -> Iterator[LlguidanceV2]:
    zeros = torch.zeros

    def unpinned(*size: Any, pin_memory: bool = False, **options: Any) -> Any:
        return zeros(*size, **options)

    with ExitStack() as patches:
        patches.enter_context(patch.object(torch, "zeros", unpinned))
        patches.enter_context(patch.object(torch.cuda, "Event", HostEvent))
        patches.enter_context(patch.object(vllm_v2, "make_batch", lambda _: GuidedBatch(store, threads=threads)))
        adapter = LlguidanceV2(SimpleNamespace(), states())
    yield adapter


@dataclass
class Request:
    """A request as the model sees it, which a runner keeps at a slot while it is in the batch."""

    constraint: Constraint | None
    ticket: Ticket | None
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    failure: Failure = Failure.NONE
    steps: int = 0
    resumed: int = 0

    @property
    def params(self) -> SamplingParams:
        if self.constraint is None or self.ticket is None:
            return SamplingParams()
        return SamplingParams(extra_args=order_args(self.ticket, self.constraint.grammar))

    def mask(self) -> Mask:
        """What this step must allow. A failure stays."""
        if self.constraint is None:
            return Mask(range(LOGITS_WIDTH))
        mask = expected_mask(self.constraint, tuple(self.tokens))
        self.failure = self.failure or mask.failure
        return Mask(EOS_TOKENS) if self.failure else mask


class Runner:
    """Does to the adapter what the V2 ``GPUModelRunner`` does: frees slots, fills them, and runs rows in its own order."""

    def __init__(self, adapter: LlguidanceV2) -> None:
        self.adapter, self.states = adapter, adapter._states
        self.free = list(range(SLOTS))
        self.slots: dict[int, Request] = {}

    def add(self, request: Request) -> int:
        slot = self.free.pop()
        self.slots[slot] = request
        prefill = [*request.prompt, *request.tokens]
        self.states.prompt_len.np[slot] = len(request.prompt)
        self.states.prefill_len.np[slot] = self.states.total_len.gpu[slot] = len(prefill)
        self.states.all_token_ids.gpu[slot, : len(prefill)] = torch.tensor(prefill, dtype=torch.int32)
        assert self.adapter.add_request(slot, request.params) == (request.constraint is not None)
        return slot

    def remove(self, slot: int) -> Request:
        self.free.append(slot)
        return self.slots.pop(slot)

    def step(self, slots: list[int]) -> None:
        """One forward pass with the given slots as its rows; every row's logits are checked."""
        self.adapter.apply_staged_writes()
        if not slots:
            return
        mapping = torch.tensor(slots, dtype=torch.int32)
        logits = torch.randn(len(slots), LOGITS_WIDTH)
        expected = logits.clone()
        places = torch.zeros(len(slots), dtype=torch.int32)
        context = LogitsContext(mapping, mapping, mapping.numpy(), places, places, places, mapping.numpy())
        assert self.adapter.apply(logits, context) is logits
        for row, slot in enumerate(slots):
            request = self.slots[slot]
            mask = request.mask()
            request.steps += request.constraint is not None
            expected[row, [token for token in range(LOGITS_WIDTH) if token not in mask]] = -torch.inf
            assert torch.equal(logits[row], expected[row]), (row, slot, request)

    def sample(self, slot: int, *tokens: int) -> None:
        """What the GPU does after the pass: append to the slot's tokens, out of the host's sight."""
        for token in tokens:
            self.slots[slot].tokens.append(token)
            self.states.all_token_ids.gpu[slot, self.states.total_len.gpu[slot]] = token
            self.states.total_len.gpu[slot] += 1


@dataclass(frozen=True)
class Plan:
    """One step: who joins, which slots finish or are preempted, how many come back; numbers are taken modulo the batch."""

    joins: list[int]
    finishes: list[int]
    preempts: list[int]
    resumes: int
    releases_at_once: bool
    seed: int


place = st.integers(0, SLOTS - 1)
plans = st.builds(
    Plan,
    joins=st.lists(st.integers(0, len(MENU) - 1), max_size=3),
    finishes=st.lists(place, max_size=1),
    preempts=st.lists(place, max_size=1),
    resumes=st.integers(0, 2),
    releases_at_once=st.booleans(),
    seed=st.integers(0, 2**16),
)


class Trace:
    """Follows plans: one request after the other through the slots of a runner."""

    def __init__(self, store: GuideStore, adapter: LlguidanceV2) -> None:
        self.store, self.runner = store, Runner(adapter)
        self.office = TicketOffice(store.table)
        self.preempted: list[Request] = []
        self.unreleased: list[Request] = []

    def step(self, plan: Plan) -> None:
        chooser = random.Random(plan.seed)
        slots = self.runner.slots
        ended = [slot for slot, request in slots.items() if len({*EOS_TOKENS} & {*request.tokens}) or len(request.tokens) > 20]
        for slot in {*ended, *(sorted(slots)[number % len(slots)] for number in plan.finishes if slots)}:
            self.unreleased.append(self.runner.remove(slot))
        for number in plan.preempts:
            if slots:
                self.preempted.append(self.runner.remove(sorted(slots)[number % len(slots)]))
        while plan.releases_at_once and self.unreleased:
            self.release(self.unreleased.pop())
        for _ in range(plan.resumes):
            if self.preempted and self.runner.free:
                self.preempted[0].resumed += 1
                self.runner.add(self.preempted.pop(0))
        for choice in plan.joins[: len(self.runner.free)]:
            constraint = MENU[choice]
            ticket = self.office.take() if constraint is not None else None
            self.runner.add(Request(constraint, ticket, prompt=chooser.choices(range(VOCABULARY), k=chooser.randint(1, 4))))
        scheduled = chooser.sample(sorted(slots), chooser.randint(len(slots) // 2, len(slots)))
        self.runner.step(scheduled)
        for slot in scheduled:
            if chooser.random() < 0.85:  # else a chunk of a prefill
                constraint, tokens = slots[slot].constraint, slots[slot].tokens
                free = constraint is None or chooser.random() < 0.03
                allowed = range(VOCABULARY) if constraint is None or free else sorted(expected_mask(constraint, tuple(tokens)))
                self.runner.sample(slot, chooser.choice(allowed))

    def release(self, request: Request) -> None:
        if request.ticket is not None:
            self.store.release(request.ticket)
            outcome = self.store.table.outcome(request.ticket)
            assert (outcome.failure, outcome.steps, outcome.resumed) == (request.failure, request.steps, request.resumed)
            self.office.give_back(request.ticket)


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(plans, min_size=3, max_size=16), st.sampled_from([1, 4]))
def test_every_row_keeps_its_own_mask_through_any_trace(steps: list[Plan], threads: int) -> None:
    with ticket_table(64) as table:
        store = GuideStore(TOKENIZER, table)
        with adapter_on(store, threads) as adapter:
            trace = Trace(store, adapter)
            for plan in steps:
                trace.step(plan)


@pytest.fixture
def table() -> Iterator[TicketTable]:
    with ticket_table() as table:
        yield table


@pytest.fixture
def runner(table: TicketTable) -> Iterator[Runner]:
    with adapter_on(GuideStore(TOKENIZER, table)) as adapter:
        yield Runner(adapter)


def request(table: TicketTable, index: int, constraint: Constraint | None, text: bytes = b"") -> Request:
    return Request(constraint, table.open(index) if constraint else None, prompt=[5, 6, 7], tokens=encode(text))


def test_a_slot_taken_over_forgets_who_had_it(runner: Runner, table: TicketTable) -> None:
    slot = runner.add(request(table, 0, CHOICE))
    runner.step([slot])
    runner.sample(slot, *encode(b"x "))
    for index, constraint in enumerate((NESTED, None, CHOICE), start=1):
        runner.remove(slot)
        assert runner.add(request(table, index, constraint)) == slot
        runner.step([slot])


def test_a_request_resumed_elsewhere_replays_its_output(runner: Runner, table: TicketTable) -> None:
    slot = runner.add(request(table, 0, NESTED))
    for token in encode(b"(((a"):
        runner.step([slot])
        runner.sample(slot, token)
    preempted = runner.remove(slot)
    assert runner.add(request(table, 1, CHOICE)) == slot
    other = runner.add(preempted)
    runner.step([slot, other])
    runner.sample(other, *encode(b")"))
    runner.sample(slot, *encode(b"ab"))
    runner.step([other, slot])
    assert table.outcome(Ticket(0, 1)).failure is Failure.NONE


def test_a_chunk_of_a_prefill_samples_nothing(runner: Runner, table: TicketTable) -> None:
    slot = runner.add(request(table, 0, CHOICE, b"x "))
    for _ in range(3):
        runner.step([slot])
    runner.sample(slot, *encode(b"1"))
    runner.step([slot])


def test_a_slot_left_out_of_a_step_stays_where_it_is(runner: Runner, table: TicketTable) -> None:
    first, second = (runner.add(request(table, index, NESTED)) for index in range(2))
    runner.step([second, first])
    runner.sample(first, *encode(b"("))
    runner.sample(second, *encode(b"a"))
    for rows in ([first], [first], [second, first], [], [second]):
        runner.step(rows)


def test_several_new_tokens_are_all_consumed(runner: Runner, table: TicketTable) -> None:
    slot = runner.add(request(table, 0, NESTED))
    runner.step([slot])
    runner.sample(slot, *encode(b"(("), *encode(b"a"))
    runner.step([slot])


def test_released_guides_are_forgotten_and_no_longer_fetched(runner: Runner, table: TicketTable) -> None:
    slots = [runner.add(request(table, index, CHOICE)) for index in range(3)]
    runner.step(slots)
    kept, adapter = slots[2], runner.adapter
    for slot in slots[:2]:
        ticket = runner.remove(slot).ticket
        assert ticket is not None
        adapter._batch.store.release(ticket)
    with patch.object(adapter._newest, "fetch", wraps=adapter._newest.fetch) as fetch:
        runner.step([kept])
    fetch.assert_called_once_with([kept])
    assert [*adapter._batch.slots] == [kept]


def test_a_batch_without_constraints_costs_no_copy(runner: Runner, table: TicketTable) -> None:
    slot = runner.add(request(table, 0, None))
    with patch.object(runner.adapter._newest, "fetch") as fetch:
        runner.step([slot])
    fetch.assert_not_called()
