"""What a vLLM worker process holds for masking, and what the model process may call there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ananke_server import cores
from ananke_server.masking.board import ADDRESS_VARIABLE, open_board
from ananke_server.masking.placements import Placements
from ananke_server.masking.stage_times import StageTimes
from ananke_server.masking.tickets import Ticket

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig

EXTRA_ARGS_KEY = "ananke"
"""The key of a constrained request's ``SamplingParams.extra_args``."""

stages = StageTimes.from_environment()
"""Where the time of this worker's steps goes."""


def ticket_of(params: SamplingParams) -> Ticket | None:
    """The ticket of a request, or None where it is unconstrained.

    Raises:
        ValueError: there is one, but malformed.
    """
    match (params.extra_args or {}).get(EXTRA_ARGS_KEY):
        case None:
            return None
        case [int(number), int(owner)]:
            return Ticket(number, owner)
        case ticket:
            raise ValueError(f"{EXTRA_ARGS_KEY}: {ticket!r} is no ticket")


def make_placements(config: VllmConfig) -> Placements:
    """The placements of this worker's logits processor, on the board that the model process has made.

    Raises:
        ValueError: the board is too small for the engine's batches.
    """
    board, bell = open_board(os.environ[ADDRESS_VARIABLE])
    most = config.scheduler_config.max_num_seqs
    if board.size.rows < most:
        raise ValueError(f"the board is made for {board.size.rows} rows, and the engine may have {most}")
    parallel = config.parallel_config
    # All ranks of a tensor-parallel group sample alike, in the last stage of the pipeline.
    writes = parallel.rank % parallel.world_size == parallel.world_size - parallel.tensor_parallel_size
    return Placements(board, bell, writes=writes)


class WorkerExtension:
    """Mixed into vLLM's worker class; ``collective_rpc`` calls it by name, between two steps of the engine."""

    def ananke_stage_times(self) -> dict[str, dict[str, float]]:
        """What the steps' stages took since the last call; empty where ``ANANKE_STAGE_TIMES`` is not set."""
        return stages.take()

    def ananke_use_kept_cores(self) -> None:
        """Let this worker's thread use the cores that are kept for it; threads that its process has besides keep off them."""
        cores.use_kept()
