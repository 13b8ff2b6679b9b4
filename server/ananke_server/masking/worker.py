"""What a vLLM worker process holds for masking, and the calls that the model process makes on it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ananke_server.masking.batch import GuidedBatch
from ananke_server.masking.guides import Guide, GuideStore
from ananke_server.masking.matchers import MAX_LEXER_STATES
from ananke_server.masking.tickets import Ticket, TicketTable
from ananke_server.masking.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig

TICKETS_VARIABLE = "ANANKE_TICKETS"
"""The environment variable that tells the workers where the ticket table is."""

LEXER_STATES_VARIABLE = "ANANKE_LEXER_STATES"
"""The environment variable that tells the workers how many states a matcher's lexer may have."""

EXTRA_ARGS_KEY = "ananke"
"""The key of a constrained request's ``SamplingParams.extra_args``."""

_store: GuideStore | None = None
_batch: GuidedBatch | None = None


@dataclass(frozen=True, slots=True)
class GuideOrder:
    """What ``extra_args`` carries of a constrained request."""

    index: int
    generation: int
    grammar: str

    @property
    def ticket(self) -> Ticket:
        return Ticket(self.index, self.generation)

    @classmethod
    def of(cls, params: SamplingParams) -> GuideOrder | None:
        """The order of a request, or None where it is unconstrained.

        Raises:
            ValueError: there is one, but malformed.
        """
        match (params.extra_args or {}).get(EXTRA_ARGS_KEY):
            case None:
                return None
            case [int(index), int(generation), str(grammar)]:
                return cls(index, generation, grammar)
            case order:
                raise ValueError(f"{EXTRA_ARGS_KEY}: {order!r} is no guide's order")


class WorkerExtension:
    """Mixed into vLLM's worker class; ``collective_rpc`` calls it by name, between two steps of the engine."""

    def ananke_sync(self, prepare: list[list[Any]], release: list[list[int]]) -> None:
        """Begin to make the guides of requests that will come, and let go of those of requests that have ended.

        Returns at once: compilation runs in the background, and the tickets say when it is done.
        """
        store = worker_store()
        # In this order: a request that was cancelled at once is in both lists.
        for order in prepare:
            wanted = GuideOrder(*order)
            store.prepare(wanted.ticket, wanted.grammar)
        for index, generation in release:
            store.release(Ticket(index, generation))

    def ananke_stage_times(self) -> dict[str, dict[str, float]]:
        """What the steps' stages took since the last call; empty where ``ANANKE_STAGE_TIMES`` is not set."""
        assert _batch is not None, "the logits processor has not been made"
        return _batch.stages.take()


def make_batch(config: VllmConfig) -> GuidedBatch:
    """The batch of a logits processor, made once in each worker process."""
    global _store, _batch
    parallel = config.parallel_config
    ranks = parallel.world_size
    table = TicketTable(Path(os.environ[TICKETS_VARIABLE]))
    tokenizer = load_tokenizer(config.model_config)
    first_sampling_rank = ranks - parallel.tensor_parallel_size
    _store = GuideStore(
        tokenizer,
        table,
        rank=parallel.rank,
        counts=parallel.rank == first_sampling_rank,
        lexer_states=int(os.environ.get(LEXER_STATES_VARIABLE, MAX_LEXER_STATES)),
    )
    _batch = GuidedBatch(_store, threads=mask_threads(ranks))
    return _batch


def worker_store() -> GuideStore:
    """The store of this worker process."""
    assert _store is not None, "the logits processor has not been made"
    return _store


def mask_threads(ranks: int) -> int:
    """Threads that fill masks in one rank: the machine's cores, two left to the engine, divided by the ranks."""
    configured = os.environ.get("ANANKE_MASK_THREADS")
    if configured:
        return max(1, int(configured))
    return max(1, min(32, (len(os.sched_getaffinity(0)) - 2) // ranks))


def take_guide(batch: GuidedBatch, order: GuideOrder) -> Guide:
    """The guide that an order asks for."""
    return batch.store.take(order.ticket, order.grammar)
