"""The V1 adapter behind vLLM's own InputBatch: generated traces of requests that come, go, move and come back."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from unittest.mock import patch

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
from vllm.v1.sample.logits_processor import LogitsProcessors  # noqa: E402
from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality  # noqa: E402
from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch  # noqa: E402

from ananke_server.masking import vllm_v1  # noqa: E402
from ananke_server.masking.tickets import Failure, Outcome, Ticket  # noqa: E402
from ananke_server.masking.vllm_v1 import PLACEHOLDER, LlguidanceV1  # noqa: E402

ROWS = 6
CPU = torch.device("cpu")
MENU = [None, CHOICE, NESTED, *REGEXES, OPEN_SCHEMA, DEAD_END, *TREES_OF_CONSTRAINTS, *DEAD_END_TREES]


@dataclass
class Request:
    """A request as the model sees it: ``tokens`` holds what vLLM's output list may only have placeholders for."""

    constraint: Constraint | None
    ticket: Ticket | None
    state: CachedRequestState
    tokens: list[int] = field(default_factory=list)
    failure: Failure = Failure.NONE
    released: bool = False
    steps: int = 0
    resumed: int = 0
    stays: int = 0
    masked_stay: int = 0
    masked_at: int = 0
    """The stay in the batch, and the output's length, that the last mask was for."""
    steps_after_end: int = 0

    @property
    def name(self) -> str:
        return str(self.state.req_id)

    def mask(self) -> Mask | None:
        """What this step must allow, judged by the tokens that are known; None where all is allowed. A failure stays."""
        if self.constraint is None:
            return None
        known = [token for token in self.state.output_token_ids if token != PLACEHOLDER]
        mask = expected_mask(self.constraint, tuple(known))
        if self.released:
            return Mask(EOS_TOKENS)
        self.steps += 1
        self.resumed += bool(self.masked_stay != self.stays and self.masked_stay and self.masked_at)
        self.masked_stay, self.masked_at = self.stays, len(known)
        self.failure = self.failure or mask.failure
        return Mask(EOS_TOKENS) if self.failure else mask


@dataclass(frozen=True)
class Plan:
    """One step: how many requests come, which rows finish, pause, swap and so on; numbers are taken modulo the batch."""

    joins: list[int]
    finishes: list[int]
    pauses: list[int]
    resumes: int
    swaps: list[tuple[int, int]]
    shrinks: tuple[int, int] | None
    releases: int | None
    hidden_rows: int
    late: bool
    """The newest token is not known yet, and what is sampled is thrown away."""
    asynchronous: bool
    seed: int


def rarely(strategy: st.SearchStrategy[int]) -> st.SearchStrategy[int | None]:
    return st.one_of(st.none(), st.none(), st.none(), strategy)


row = st.integers(0, ROWS - 1)
plans = st.builds(
    Plan,
    joins=st.lists(st.integers(0, len(MENU) - 1), max_size=3),
    finishes=st.lists(row, max_size=2),
    pauses=st.lists(row, max_size=1),
    resumes=st.integers(0, 2),
    swaps=st.lists(st.tuples(row, row), max_size=2),
    shrinks=st.one_of(st.none(), st.none(), st.tuples(row, st.integers(1, 3))),
    releases=rarely(row),
    hidden_rows=st.sampled_from([0, 0, 0, 1, 2]),
    late=st.sampled_from([False, False, True]),
    asynchronous=st.booleans(),
    seed=st.integers(0, 2**16),
)


@contextmanager
def adapter_on(stage: MaskStage) -> Iterator[LlguidanceV1]:
    with patch.object(vllm_v1, "make_placements", lambda _: stage.placements()):
        yield LlguidanceV1(SimpleNamespace(), CPU, False)


class Runner:
    """Does to an InputBatch what ``GPUModelRunner._update_states`` does, and holds every row to its request's mask."""

    def __init__(self, stage: MaskStage, adapter: LlguidanceV1) -> None:
        self.stage, self.adapter = stage, adapter
        self.batch = InputBatch(ROWS, 256, 256, CPU, LOGITS_WIDTH, [16], [16], logitsprocs=LogitsProcessors([adapter]))
        self.running: dict[str, Request] = {}
        self.paused: list[Request] = []
        self.count = 0

    def step(self, plan: Plan) -> None:
        chooser = random.Random(plan.seed)
        self.reveal(plan.late)
        self.leave(plan)
        if plan.shrinks is not None and self.running:
            self.shrink(self.at(plan.shrinks[0]), plan.shrinks[1])
        if plan.releases is not None and self.running:
            self.release(self.at(plan.releases))
        self.enter(plan)
        self.batch.condense()
        if self.batch.num_reqs > 1:
            for first, second in plan.swaps:
                if first % self.batch.num_reqs != second % self.batch.num_reqs:
                    self.batch.swap_states(first % self.batch.num_reqs, second % self.batch.num_reqs)
        self.batch.refresh_metadata()
        rows = [self.running[name] for name in self.batch.req_ids][: max(1, self.batch.num_reqs - plan.hidden_rows)]
        if rows:
            self.check(rows)
            if not plan.late:
                self.sample(rows, chooser, plan.asynchronous)

    def at(self, row: int) -> Request:
        return self.running[sorted(self.running)[row % len(self.running)]]

    def reveal(self, late: bool) -> None:
        """Put real tokens into the placeholders' stead, all but the last where it is late."""
        for request in self.running.values():
            output = request.state.output_token_ids
            known = max(0, len(output) - 1) if late and PLACEHOLDER in output else len(output)
            output[:known] = request.tokens[:known]

    def leave(self, plan: Plan) -> None:
        finished = {self.at(row).name for row in plan.finishes if self.running}
        finished |= {request.name for request in self.running.values() if request.steps_after_end > 1 or len(request.tokens) > 20}
        for name in sorted(finished):
            request = self.running.pop(name)
            self.batch.remove_request(name)
            self.finish(request)
        for row in plan.pauses:
            if self.running:
                request = self.running.pop(self.at(row).name)
                self.batch.remove_request(request.name)
                self.paused.append(request)

    def finish(self, request: Request) -> None:
        if (outcome := self.release(request)) is not None:
            assert (outcome.failure, outcome.steps, outcome.resumed) == (request.failure, request.steps, request.resumed)

    def release(self, request: Request) -> Outcome | None:
        if request.ticket is None or request.released:
            return None
        request.released = True
        return self.stage.release(request.ticket)

    def shrink(self, request: Request, tokens: int) -> None:
        del request.state.output_token_ids[-tokens:]
        del request.tokens[len(request.state.output_token_ids) :]
        request.steps_after_end = 0
        self.batch.num_tokens_no_spec[self.batch.req_id_to_index[request.name]] = request.state.num_tokens

    def enter(self, plan: Plan) -> None:
        entering = [self.join(MENU[choice]) for choice in plan.joins[: ROWS - len(self.running)]]
        for _ in range(plan.resumes):
            if self.paused and len(self.running) + len(entering) < ROWS:
                request = self.paused.pop(0)
                if request.released:
                    continue
                # The scheduler sends every token along, in a list of its own.
                request.state.output_token_ids = list(request.tokens)
                entering.insert(plan.seed % (len(entering) + 1), request)
        for request in entering:
            request.stays += 1
            self.batch.add_request(request.state)
            self.running[request.name] = request

    def join(self, constraint: Constraint | None) -> Request:
        self.count += 1
        ticket = self.stage.open(constraint) if constraint is not None else None
        params = SamplingParams(temperature=0, extra_args=ticket and ticket_args(ticket))
        return Request(constraint, ticket, CachedRequestState(f"r{self.count:03}", [1], [], params, None, ([0],), 0, []))

    def check(self, rows: list[Request]) -> None:
        logits = torch.randn(len(rows), LOGITS_WIDTH)
        before = logits.clone()
        assert self.adapter.apply(logits) is logits
        for row, request in enumerate(rows):
            if (mask := request.mask()) is not None:
                before[row, [token for token in range(LOGITS_WIDTH) if token not in mask]] = -torch.inf
            assert torch.equal(logits[row], before[row]), (row, request)

    def sample(self, rows: list[Request], chooser: random.Random, asynchronous: bool) -> None:
        for request in rows:
            if chooser.random() < 0.1:
                continue  # a chunk of a prefill: what is sampled is thrown away
            choices = list(range(VOCABULARY))
            if request.constraint is not None and chooser.random() > 0.03:
                choices = sorted(expected_mask(request.constraint, tuple(request.tokens)))
            request.tokens.append(chooser.choice(choices))
            request.state.output_token_ids.append(PLACEHOLDER if asynchronous else request.tokens[-1])
            request.steps_after_end += request.steps_after_end > 0 or request.tokens[-1] in EOS_TOKENS


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(plans, min_size=3, max_size=16), st.sampled_from([1, 2]))
def test_every_row_keeps_its_own_mask_through_any_trace(trace: list[Plan], processes: int) -> None:
    with mask_stage(rows=ROWS, processes=processes) as stage, adapter_on(stage) as adapter:
        runner = Runner(stage, adapter)
        for plan in trace:
            runner.step(plan)
        for request in (*runner.running.values(), *runner.paused):
            runner.finish(request)


@pytest.fixture
def stage() -> Iterator[MaskStage]:
    with mask_stage(rows=ROWS, processes=2) as stage:
        yield stage


@pytest.fixture
def adapter(stage: MaskStage) -> Iterator[LlguidanceV1]:
    with adapter_on(stage) as adapter:
        yield adapter


def params(stage: MaskStage, constraint: Constraint | None = CHOICE) -> SamplingParams:
    return SamplingParams(extra_args=constraint and ticket_args(stage.open(constraint)))


def allowed(adapter: LlguidanceV1, rows: int = 3) -> list[Mask]:
    logits = adapter.apply(torch.zeros(rows, LOGITS_WIDTH))
    return [Mask((row == 0).nonzero().flatten().tolist()) for row in logits]


def after(text: bytes, constraint: Constraint = CHOICE) -> Mask:
    return expected_mask(constraint, tuple(encode(text)))


ALL = Mask(range(LOGITS_WIDTH))


def test_a_placeholder_is_waited_for(adapter: LlguidanceV1, stage: MaskStage) -> None:
    output: list[int] = []
    ticket = stage.open(CHOICE)
    adapter.update_state(BatchUpdate(1, [], [(0, SamplingParams(extra_args=ticket_args(ticket)), [1], output)], []))
    assert allowed(adapter, 1) == [after(b"")]
    output.append(PLACEHOLDER)
    assert [allowed(adapter, 1) for _ in range(2)] == [[after(b"")]] * 2
    output[:] = [*encode(b"x "), PLACEHOLDER]
    assert [allowed(adapter, 1) for _ in range(2)] == [[after(b"x ")]] * 2
    output[-1:] = encode(b"1")
    assert allowed(adapter, 1) == [after(b"x 1")]
    assert stage.release(ticket).failure is Failure.NONE


def test_an_output_that_shrinks_is_read_again(adapter: LlguidanceV1, stage: MaskStage) -> None:
    output: list[int] = []
    ticket = stage.open(NESTED)
    adapter.update_state(BatchUpdate(1, [], [(0, SamplingParams(extra_args=ticket_args(ticket)), [1], output)], []))
    for text in (b"", b"((", b"((a", b"((", b"((((", b"((((a", b""):
        output[:] = encode(text)
        assert allowed(adapter, 1) == [after(text, NESTED)], text
    assert stage.release(ticket).failure is Failure.NONE


def test_several_tokens_at_once_fail_their_request(adapter: LlguidanceV1, stage: MaskStage) -> None:
    output: list[int] = []
    tickets = [stage.open(NESTED) for _ in range(2)]
    added = [(row, SamplingParams(extra_args=ticket_args(ticket)), [1], [output, []][row]) for row, ticket in enumerate(tickets)]
    adapter.update_state(BatchUpdate(2, [], added, []))
    assert allowed(adapter, 2) == [after(b"", NESTED)] * 2
    output += encode(b"((a")
    assert allowed(adapter, 2) == [Mask(EOS_TOKENS), after(b"", NESTED)]
    assert [stage.release(ticket).failure for ticket in tickets] == [Failure.INTERNAL, Failure.NONE]


def test_removed_added_and_moved_are_followed_in_this_order(adapter: LlguidanceV1, stage: MaskStage) -> None:
    a, x, nested = encode(b"ab"), encode(b"x "), encode(b"(")
    assert [len(output) for output in (a, x, nested)] == [1, 1, 1]
    adapter.update_state(BatchUpdate(2, [], [(0, params(stage), [1], a), (1, params(stage), [1], x)], []))
    assert allowed(adapter) == [after(b"ab"), after(b"x "), ALL]
    added = [(0, params(stage, NESTED), [1], nested), (2, params(stage, None), [1], x)]
    moves = [(1, 2, MoveDirectionality.SWAP), (0, 1, MoveDirectionality.UNIDIRECTIONAL)]
    adapter.update_state(BatchUpdate(3, [0], added, moves))
    assert allowed(adapter) == [ALL, after(b"(", NESTED), after(b"x ")]
    adapter.update_state(BatchUpdate(3, [], [(1, params(stage, None), [1], nested)], []))
    assert allowed(adapter) == [ALL, ALL, after(b"x ")]
    adapter.update_state(BatchUpdate(0, [2, 1, 0], [], []))
    assert allowed(adapter) == [ALL] * 3


@pytest.mark.parametrize("extra_args", [None, {}, {"other": 1}, {"ananke": [3, 1]}])
def test_the_frontend_takes_what_is_a_ticket_or_none(extra_args: dict[str, object] | None) -> None:
    LlguidanceV1.validate_params(SamplingParams(extra_args=extra_args))


@pytest.mark.parametrize("ticket", [[1], [1, 2, 3], ["1", 2], [1, None], {"number": 1, "owner": 0}, "12", 7, [], False])
def test_the_frontend_refuses_what_is_no_ticket(ticket: object) -> None:
    with pytest.raises(ValueError, match="is no ticket"):
        LlguidanceV1.validate_params(SamplingParams(extra_args={"ananke": ticket}))


def test_nothing_is_asked_for_a_batch_without_constraints(adapter: LlguidanceV1, stage: MaskStage) -> None:
    logits = torch.zeros(2, LOGITS_WIDTH)
    adapter.update_state(BatchUpdate(2, [], [(0, params(stage, None), [1], []), (1, params(stage), [1], [])], []))
    adapter.update_state(BatchUpdate(2, [1], [], []))
    board = stage.board
    before = [array.tobytes() for array in (board.arrived, board.announced, board.counts, board.rows, board.stamps, board.masks)]
    stage.board.open_gates(board.masks[0, 0, : board.size.words])
    assert adapter.apply(logits) is logits
    assert not logits.any(), "nor do masks that are lost concern it"
    assert before == [array.tobytes() for array in (board.arrived, board.announced, board.counts, board.rows, board.stamps, board.masks)]


def test_a_step_without_constrained_rows_waits_for_nothing(adapter: LlguidanceV1, stage: MaskStage) -> None:
    adapter.update_state(BatchUpdate(2, [], [(0, params(stage, None), [1], []), (1, params(stage), [1], [])], []))
    assert allowed(adapter, 1) == [ALL]
    assert not stage.board.announced.any()
    assert allowed(adapter, 2) == [ALL, after(b"")]


def test_lost_mask_processes_end_their_requests_and_set_nobody_free(adapter: LlguidanceV1, stage: MaskStage) -> None:
    adapter.update_state(BatchUpdate(1, [], [(0, params(stage), [1], [])], []))
    assert allowed(adapter, 1) == [after(b"")]
    stage.lose()
    assert [set(mask) for mask in allowed(adapter, 1)] == [set(EOS_TOKENS)]


def test_the_time_of_the_wait_is_stamped(adapter: LlguidanceV1, stage: MaskStage) -> None:
    adapter.update_state(BatchUpdate(1, [], [(0, params(stage), [1], [])], []))
    for step in (1, 2):
        begun = time.perf_counter_ns()
        allowed(adapter, 1)
        logits_there, masks_there = stage.board.stamps[step % 2].tolist()
        assert begun < logits_there < masks_there < time.perf_counter_ns()


def test_it_is_never_left_out_of_greedy_sampling(adapter: LlguidanceV1) -> None:
    assert not adapter.is_argmax_invariant()
