"""The V2 adapter on a runner's state held in CPU tensors: its slots, what it sends, and rows in any order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mask_stage import MaskStage, mask_stage
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
    ticket_args,
)

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from vllm import SamplingParams  # noqa: E402
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcRequestState  # noqa: E402

from ananke_server.masking import vllm_v2  # noqa: E402
from ananke_server.masking.gate import HostGate  # noqa: E402
from ananke_server.masking.tickets import Failure, Ticket  # noqa: E402
from ananke_server.masking.tokenizer import eos_mask  # noqa: E402
from ananke_server.masking.vllm_v2 import LlguidanceV2  # noqa: E402

SLOTS = 5
MAX_TOKENS = 96
MENU = [None, CHOICE, NESTED, *REGEXES, OPEN_SCHEMA, DEAD_END, *TREES_OF_CONSTRAINTS, *DEAD_END_TREES]


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
def adapter_on(stage: MaskStage, *, writes: bool = True) -> Iterator[LlguidanceV2]:
    with patch.object(vllm_v2, "make_placements", lambda _: stage.placements(writes=writes)):
        yield LlguidanceV2(SimpleNamespace(), states())


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
    stays: int = 0
    masked_stay: int = 0
    masked_at: int = 0
    """The stay in the batch, and the output's length, that the last mask was for."""

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(extra_args=self.ticket and ticket_args(self.ticket))

    def mask(self) -> Mask:
        """What this step must allow. A failure stays."""
        if self.constraint is None:
            return Mask(range(LOGITS_WIDTH))
        self.steps += 1
        self.resumed += bool(self.masked_stay != self.stays and self.masked_stay and self.masked_at)
        self.masked_stay, self.masked_at = self.stays, len(self.tokens)
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
        request.stays += 1
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
        if slots:
            self.rows(slots)

    def rows(self, slots: list[int]) -> None:
        mapping = torch.tensor(slots, dtype=torch.int32)
        logits = torch.randn(len(slots), LOGITS_WIDTH)
        expected = logits.clone()
        places = torch.zeros(len(slots), dtype=torch.int32)
        context = LogitsContext(mapping, mapping, mapping.numpy(), places, places, places, mapping.numpy())
        assert self.adapter.apply(logits, context) is logits
        for row, slot in enumerate(slots):
            request = self.slots[slot]
            mask = request.mask()
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
    preempts: list[tuple[int, bool]]
    """Who leaves for a while, and whether the last token is discarded."""
    resumes: int
    releases_at_once: bool
    seed: int


place = st.integers(0, SLOTS - 1)
plans = st.builds(
    Plan,
    joins=st.lists(st.integers(0, len(MENU) - 1), max_size=3),
    finishes=st.lists(place, max_size=1),
    preempts=st.lists(st.tuples(place, st.booleans()), max_size=1),
    resumes=st.integers(0, 2),
    releases_at_once=st.booleans(),
    seed=st.integers(0, 2**16),
)


class Trace:
    """Follows plans: one request after the other through the slots of a runner."""

    def __init__(self, stage: MaskStage, adapter: LlguidanceV2) -> None:
        self.stage, self.runner = stage, Runner(adapter)
        self.preempted: list[Request] = []
        self.unreleased: list[Request] = []

    def step(self, plan: Plan) -> None:
        chooser = random.Random(plan.seed)
        slots = self.runner.slots
        ended = [slot for slot, request in slots.items() if len({*EOS_TOKENS} & {*request.tokens}) or len(request.tokens) > 20]
        for slot in {*ended, *(sorted(slots)[number % len(slots)] for number in plan.finishes if slots)}:
            self.unreleased.append(self.runner.remove(slot))
        for number, discards in plan.preempts:
            if slots:
                self.preempted.append(self.runner.remove(sorted(slots)[number % len(slots)]))
                del self.preempted[-1].tokens[len(self.preempted[-1].tokens) - discards :]
        while plan.releases_at_once and self.unreleased:
            self.release(self.unreleased.pop())
        for _ in range(plan.resumes):
            if self.preempted and self.runner.free:
                self.runner.add(self.preempted.pop(0))
        for choice in plan.joins[: len(self.runner.free)]:
            constraint = MENU[choice]
            ticket = None if constraint is None else self.stage.open(constraint)
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
            outcome = self.stage.release(request.ticket)
            assert (outcome.failure, outcome.steps, outcome.resumed) == (request.failure, request.steps, request.resumed)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(plans, min_size=3, max_size=16), st.sampled_from([1, 2]))
def test_every_row_keeps_its_own_mask_through_any_trace(steps: list[Plan], processes: int) -> None:
    with mask_stage(rows=SLOTS, processes=processes) as stage, adapter_on(stage) as adapter:
        trace = Trace(stage, adapter)
        for plan in steps:
            trace.step(plan)
        for request in (*trace.runner.slots.values(), *trace.preempted, *trace.unreleased):
            trace.release(request)


@pytest.fixture
def stage() -> Iterator[MaskStage]:
    with mask_stage(rows=SLOTS, processes=2) as stage:
        yield stage


@pytest.fixture
def runner(stage: MaskStage) -> Iterator[Runner]:
    with adapter_on(stage) as adapter:
        yield Runner(adapter)


def request(stage: MaskStage, constraint: Constraint | None) -> Request:
    return Request(constraint, stage.open(constraint) if constraint else None, prompt=[5, 6, 7])


def decode(runner: Runner, slot: int, text: bytes) -> None:
    """A text's tokens, one a step, each within its mask; the last one is sampled, and no step has seen it yet."""
    for token in encode(text):
        runner.step([slot])
        runner.sample(slot, token)


def test_a_slot_taken_over_forgets_who_had_it(runner: Runner, stage: MaskStage) -> None:
    slot = runner.add(request(stage, CHOICE))
    decode(runner, slot, b"x ")
    for constraint in (NESTED, None, CHOICE):
        runner.remove(slot)
        assert runner.add(request(stage, constraint)) == slot
        runner.step([slot])


@pytest.mark.parametrize("discarded", [0, 1, 3])
def test_a_request_resumed_elsewhere_goes_on_with_its_output(runner: Runner, stage: MaskStage, discarded: int) -> None:
    slot = runner.add(request(stage, NESTED))
    decode(runner, slot, b"(((a" if not discarded else b"(()")
    preempted = runner.remove(slot)
    if discarded:
        preempted.tokens[-discarded:] = []
    assert runner.add(request(stage, CHOICE)) == slot
    other = runner.add(preempted)
    runner.step([slot, other])
    runner.sample(other, *encode(b")" if not discarded else b"a"))
    runner.sample(slot, *encode(b"ab"))
    runner.step([other, slot])
    assert preempted.ticket is not None
    outcome = stage.release(preempted.ticket)
    assert (outcome.failure, outcome.resumed) == (Failure.NONE, 1)


def test_a_chunk_of_a_prefill_samples_nothing(runner: Runner, stage: MaskStage) -> None:
    slot = runner.add(request(stage, CHOICE))
    decode(runner, slot, b"x ")
    for _ in range(3):
        runner.step([slot])
    runner.sample(slot, *encode(b"1"))
    runner.step([slot])


def test_a_slot_left_out_of_a_step_stays_where_it_is(runner: Runner, stage: MaskStage) -> None:
    first, second = (runner.add(request(stage, NESTED)) for _ in range(2))
    runner.step([second, first])
    runner.sample(first, *encode(b"("))
    runner.sample(second, *encode(b"a"))
    for rows in ([first], [first], [second, first], [], [second]):
        runner.step(rows)


def test_several_new_tokens_fail_their_request(runner: Runner, stage: MaskStage) -> None:
    """Only the newest one travels; speculative decoding is refused at start."""
    one, other = request(stage, NESTED), request(stage, NESTED)
    slots = [runner.add(one), runner.add(other)]
    runner.step(slots)
    runner.sample(slots[0], *encode(b"(("), *encode(b"("), *encode(b"a"))
    one.failure = Failure.INTERNAL
    runner.step(slots)
    assert one.ticket is not None
    assert stage.release(one.ticket).failure is Failure.INTERNAL


def snapshot(stage: MaskStage) -> list[bytes]:
    board = stage.board
    arrays = (board.arrived, board.announced, board.counts, board.rows, board.lengths, board.tokens, board.stamps, board.masks)
    return [array.tobytes() for array in arrays]


def test_nothing_is_sent_for_a_batch_without_constraints(runner: Runner, stage: MaskStage) -> None:
    slot = runner.add(request(stage, None))
    before = snapshot(stage)
    for _ in range(3):
        runner.step([slot])
        runner.sample(slot, 5)
    stage.board.open_gates(eos_mask(TOKENIZER, stage.board.size.words))
    before[-1] = stage.board.masks.tobytes()
    runner.step([slot])
    assert snapshot(stage) == before, "nor do masks that are lost concern it"


def test_nothing_is_sent_any_more_once_constrained_rows_have_ended(runner: Runner, stage: MaskStage) -> None:
    free, constrained = runner.add(request(stage, None)), runner.add(request(stage, CHOICE))
    runner.step([free, constrained])
    runner.remove(constrained)
    runner.step([free])
    before = snapshot(stage)
    for _ in range(3):
        runner.step([free])
    assert snapshot(stage) == before


def test_tokens_are_on_their_way_before_the_forward_pass(runner: Runner, stage: MaskStage) -> None:
    slot = runner.add(request(stage, CHOICE))
    runner.adapter.apply_staged_writes()
    assert (stage.board.arrived[0], stage.board.lengths[slot], stage.board.tokens[slot]) == (1, 3, 7)
    assert not stage.board.announced.any()


def test_rows_that_were_not_expected_have_their_tokens_sent_late(runner: Runner, stage: MaskStage) -> None:
    """A constrained request of the batch that the last step left out, say for its chunk of a prefill."""
    free, constrained = runner.add(request(stage, None)), runner.add(request(stage, CHOICE))
    runner.step([constrained])
    runner.sample(constrained, *encode(b"x "))
    runner.step([free])
    with patch.object(runner.adapter._gate, "send", wraps=runner.adapter._gate.send) as send:
        runner.adapter.apply_staged_writes()
        send.assert_not_called()
        runner.rows([free, constrained])
        send.assert_called_once()
        runner.step([constrained])
        assert send.call_count == 2, "and once expected they are sent ahead, and once alone"


def test_a_silent_worker_waits_for_the_masks_that_another_asked_for(stage: MaskStage) -> None:
    with adapter_on(stage) as loud, adapter_on(stage, writes=False) as silent:
        runners = Runner(loud), Runner(silent)
        asked = request(stage, CHOICE)
        for runner in runners:
            runner.add(Request(CHOICE, asked.ticket, asked.prompt))
        for token in encode(b"abc12"):
            for runner in runners:
                [slot] = runner.slots
                runner.step([slot])
                runner.sample(slot, token)
        before = snapshot(stage)
        runners[1].adapter.apply_staged_writes()
        assert snapshot(stage) == before
    assert asked.ticket is not None
    assert stage.release(asked.ticket).steps == len(encode(b"abc12"))


def test_lost_mask_processes_end_their_requests_and_set_nobody_free(runner: Runner, stage: MaskStage) -> None:
    slot = runner.add(request(stage, CHOICE))
    runner.step([slot])
    stage.lose()
    for _ in range(3):
        logits = torch.zeros(1, LOGITS_WIDTH)
        mapping = torch.tensor([slot], dtype=torch.int32)
        runner.adapter.apply_staged_writes()
        runner.adapter.apply(logits, LogitsContext(mapping, mapping, mapping.numpy(), mapping, mapping, mapping, mapping.numpy()))
        assert (logits[0] == 0).nonzero().flatten().tolist() == list(EOS_TOKENS)


@pytest.mark.parametrize("ticket", [[1], [1, 2, 3], ["1", 2], "12", 7, []])
def test_the_frontend_refuses_what_is_no_ticket(ticket: object) -> None:
    LlguidanceV2.validate_params(SamplingParams(extra_args={"ananke": [3, 1]}))
    with pytest.raises(ValueError, match="is no ticket"):
        LlguidanceV2.validate_params(SamplingParams(extra_args={"ananke": ticket}))


def test_on_the_host_its_gate_is_the_hosts(runner: Runner) -> None:
    assert isinstance(runner.adapter._gate, HostGate)
