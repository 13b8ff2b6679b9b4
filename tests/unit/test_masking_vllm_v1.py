"""The V1 adapter behind vLLM's own InputBatch: generated traces of requests that come, go, move and come back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from unittest.mock import patch

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
from vllm.v1.sample.logits_processor import LogitsProcessors  # noqa: E402
from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality  # noqa: E402
from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch  # noqa: E402

from ananke_server.masking import vllm_v1  # noqa: E402
from ananke_server.masking.batch import GuidedBatch  # noqa: E402
from ananke_server.masking.guides import GuideStore  # noqa: E402
from ananke_server.masking.tickets import Failure, Ticket, TicketOffice, TicketTable  # noqa: E402
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
        if not self.released:
            self.failure = self.failure or mask.failure
        return Mask(EOS_TOKENS) if self.failure or self.released else mask


@dataclass(frozen=True)
class Plan:
    """One step: how many requests come, which rows finish, pause, swap and so on; numbers are taken modulo the batch."""

    joins: list[int]
    prepares: bool
    finishes: list[int]
    pauses: list[int]
    resumes: int
    swaps: list[tuple[int, int]]
    shrinks: tuple[int, int] | None
    releases: int | None
    hidden_rows: int
    late: bool
    asynchronous: bool
    seed: int


def rarely(strategy: st.SearchStrategy[int]) -> st.SearchStrategy[int | None]:
    return st.one_of(st.none(), st.none(), st.none(), strategy)


row = st.integers(0, ROWS - 1)
plans = st.builds(
    Plan,
    joins=st.lists(st.integers(0, len(MENU) - 1), max_size=3),
    prepares=st.booleans(),
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
def adapter_on(store: GuideStore, threads: int = 1) -> Iterator[LlguidanceV1]:
    config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=ROWS))
    with patch.object(vllm_v1, "make_batch", lambda _: GuidedBatch(store, threads=threads)):
        yield LlguidanceV1(config, CPU, False)


class Runner:
    """Does to an InputBatch what ``GPUModelRunner._update_states`` does, and holds every row to its request's mask."""

    def __init__(self, store: GuideStore, adapter: LlguidanceV1) -> None:
        self.store, self.adapter = store, adapter
        self.office = TicketOffice(store.table)
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
        if request.ticket is None:
            return
        self.release(request)
        outcome = self.store.table.outcome(request.ticket)
        assert (outcome.failure, outcome.steps, outcome.resumed) == (request.failure, request.steps, request.resumed)
        self.office.give_back(request.ticket)

    def release(self, request: Request) -> None:
        if request.ticket is not None and not request.released:
            self.store.release(request.ticket)
            request.released = True

    def shrink(self, request: Request, tokens: int) -> None:
        del request.state.output_token_ids[-tokens:]
        del request.tokens[len(request.state.output_token_ids) :]
        request.steps_after_end = 0
        self.batch.num_tokens_no_spec[self.batch.req_id_to_index[request.name]] = request.state.num_tokens

    def enter(self, plan: Plan) -> None:
        entering = [self.join(MENU[choice], plan.prepares) for choice in plan.joins[: ROWS - len(self.running)]]
        for _ in range(plan.resumes):
            if self.paused and len(self.running) + len(entering) < ROWS:
                request = self.paused.pop(0)
                if request.released:
                    continue
                # The scheduler sends every token along, in a list of its own.
                request.state.output_token_ids = list(request.tokens)
                request.resumed += 1
                entering.insert(plan.seed % (len(entering) + 1), request)
        for request in entering:
            self.batch.add_request(request.state)
            self.running[request.name] = request

    def join(self, constraint: Constraint | None, prepares: bool) -> Request:
        self.count += 1
        ticket = self.office.take() if constraint is not None else None
        extra_args = None
        if constraint is not None and ticket is not None:
            extra_args = order_args(ticket, constraint.grammar)
            if prepares:
                self.store.prepare(ticket, constraint.grammar)
                while not self.store.table.ready_ranks(ticket):
                    pass
        params = SamplingParams(temperature=0, extra_args=extra_args)
        return Request(constraint, ticket, CachedRequestState(f"r{self.count:03}", [1], [], params, None, ([0],), 0, []))

    def check(self, rows: list[Request]) -> None:
        logits = torch.randn(len(rows), LOGITS_WIDTH)
        before = logits.clone()
        assert self.adapter.apply(logits) is logits
        for row, request in enumerate(rows):
            if (mask := request.mask()) is not None:
                before[row, [token for token in range(LOGITS_WIDTH) if token not in mask]] = -torch.inf
                request.steps += 1
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
@given(st.lists(plans, min_size=3, max_size=16), st.sampled_from([1, 4]))
def test_every_row_keeps_its_own_mask_through_any_trace(trace: list[Plan], threads: int) -> None:
    with ticket_table(64) as table:
        store = GuideStore(TOKENIZER, table)
        with adapter_on(store, threads) as adapter:
            runner = Runner(store, adapter)
            for plan in trace:
                runner.step(plan)
            for request in runner.running.values():
                runner.finish(request)


@pytest.fixture
def table() -> Iterator[TicketTable]:
    with ticket_table() as table:
        yield table


@pytest.fixture
def adapter(table: TicketTable) -> Iterator[LlguidanceV1]:
    with adapter_on(GuideStore(TOKENIZER, table)) as adapter:
        yield adapter


def params(table: TicketTable, index: int, constraint: Constraint | None = CHOICE) -> SamplingParams:
    return SamplingParams(extra_args=constraint and order_args(table.open(index), constraint.grammar))


def allowed(adapter: LlguidanceV1, rows: int = 3) -> list[Mask]:
    logits = adapter.apply(torch.zeros(rows, LOGITS_WIDTH))
    return [Mask((row == 0).nonzero().flatten().tolist()) for row in logits]


def after(text: bytes, constraint: Constraint = CHOICE) -> Mask:
    return expected_mask(constraint, tuple(encode(text)))


ALL = Mask(range(LOGITS_WIDTH))


def test_a_placeholder_is_waited_for(adapter: LlguidanceV1, table: TicketTable) -> None:
    output: list[int] = []
    adapter.update_state(BatchUpdate(1, [], [(0, params(table, 0), [1], output)], []))
    assert allowed(adapter, 1) == [after(b"")]
    output += [*encode(b"x "), PLACEHOLDER]
    assert allowed(adapter, 1) == [after(b"x ")]
    assert allowed(adapter, 1) == [after(b"x ")]
    output[-1:] = encode(b"1")
    assert allowed(adapter, 1) == [after(b"x 1")]
    assert table.outcome(Ticket(0, 1)).failure is Failure.NONE


def test_an_output_that_shrinks_is_read_again(adapter: LlguidanceV1, table: TicketTable) -> None:
    output = encode(b"((")
    adapter.update_state(BatchUpdate(1, [], [(0, params(table, 0, NESTED), [1], output)], []))
    output += encode(b"a")
    assert allowed(adapter, 1) == [after(b"((a", NESTED)]
    del output[1:]
    assert allowed(adapter, 1) == [after(b"((", NESTED)]
    output += encode(b"((")
    assert allowed(adapter, 1) == [after(b"((((", NESTED)]
    output.clear()
    assert allowed(adapter, 1) == [after(b"", NESTED)]


def test_removed_added_and_moved_are_followed_in_this_order(adapter: LlguidanceV1, table: TicketTable) -> None:
    ab, x, nested = encode(b"ab"), encode(b"x "), encode(b"(")
    adapter.update_state(BatchUpdate(2, [], [(0, params(table, 0), [1], ab), (1, params(table, 1), [1], x)], []))
    assert allowed(adapter) == [after(b"ab"), after(b"x "), ALL]
    added = [(0, params(table, 2, NESTED), [1], nested), (2, params(table, 3, None), [1], x)]
    moves = [(1, 2, MoveDirectionality.SWAP), (0, 1, MoveDirectionality.UNIDIRECTIONAL)]
    adapter.update_state(BatchUpdate(3, [0], added, moves))
    assert allowed(adapter) == [ALL, after(b"(", NESTED), after(b"x ")]
    adapter.update_state(BatchUpdate(3, [], [(1, params(table, 4, None), [1], nested)], []))
    assert allowed(adapter) == [ALL, ALL, after(b"x ")]
    adapter.update_state(BatchUpdate(0, [2, 1, 0], [], []))
    assert allowed(adapter) == [ALL] * 3


def test_the_frontend_refuses_what_is_no_order(table: TicketTable) -> None:
    LlguidanceV1.validate_params(params(table, 0))
    LlguidanceV1.validate_params(SamplingParams(extra_args={"other": 1}))
    with pytest.raises((TypeError, ValueError)):
        LlguidanceV1.validate_params(SamplingParams(extra_args={"ananke": [1, 2]}))


def test_it_is_never_left_out_of_greedy_sampling(adapter: LlguidanceV1) -> None:
    assert not adapter.is_argmax_invariant()
