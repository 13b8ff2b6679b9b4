"""Gates: where a step waits for its masks. This one is on the host, for engines that compute there; ``cuda_gate`` has the GPU's."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ananke_server.masking.bitmask import forbid
from ananke_server.masking.board import Board
from ananke_server.masking.placements import Asked

if TYPE_CHECKING:
    import torch

_PAUSE = 20e-6


class Gate(Protocol):
    """How a runner's tokens get to the mask processes, and their masks to its logits."""

    def send(self, step: int, total_len: torch.Tensor, all_token_ids: torch.Tensor) -> None:
        """Write each slot's length and newest token to the board, and then that they have arrived.

        Args:
            step: its number.
            total_len: ``[slots]`` int32.
            all_token_ids: ``[slots, length]`` int32.
        """

    def apply(self, step: int, asked: Asked, logits: torch.Tensor) -> None:
        """Set the logits that the step's masks forbid to -inf, in place, once the masks are there.

        Args:
            logits: ``[batch, vocab]`` floating; columns beyond the masks' width are forbidden too.
        """


class HostGate:
    """A gate at which the engine itself waits."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def send(self, step: int, total_len: torch.Tensor, all_token_ids: torch.Tensor) -> None:
        last = (total_len.long() - 1).clamp(min=0)
        slots = len(total_len)
        self._board.lengths[:slots] = total_len.numpy()
        self._board.tokens[:slots] = all_token_ids.gather(1, last[:, None])[:, 0].numpy()
        self._board.arrived[0] = step

    def apply(self, step: int, asked: Asked, logits: torch.Tensor) -> None:
        board, part = self._board, self._board.part(step)
        begun = time.perf_counter_ns()
        while (board.done[asked.owners, 0] < step).any():
            time.sleep(_PAUSE)
        board.stamps[part] = begun, time.perf_counter_ns()
        masks, words = board.masks[part, : asked.masks], board.size.words
        forbid(logits, masks[:, :words], np.ascontiguousarray(masks[:, words]))
