"""The logits processor for vLLM's V1 model runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from vllm.v1.sample.logits_processor.interface import BatchUpdate, LogitsProcessor, MoveDirectionality

from ananke_server.masking.gate import HostGate
from ananke_server.masking.worker import make_placements, stages, ticket_of

if TYPE_CHECKING:
    import torch
    from vllm import SamplingParams
    from vllm.config import VllmConfig

PLACEHOLDER = -1
"""Stands in a V1 output list for a token that was sampled, but is not known on the host yet."""


class LlguidanceV1(LogitsProcessor):
    """Masks the rows of constrained requests; a slot is a row of vLLM's persistent batch."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._placements = make_placements(vllm_config)
        self._board = self._placements.board
        self._gate = HostGate(self._board)
        self._outputs: dict[int, Sequence[int]] = {}
        self._step = 0

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        ticket_of(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the persistent batch: requests that left, joined, moved or changed places, in this order."""
        if batch_update is None:
            return
        placements, outputs = self._placements, self._outputs
        for row in batch_update.removed:
            placements.remove(row)
        for row, params, _prompt, output in batch_update.added:
            placements.remove(row)
            if (ticket := ticket_of(params)) is not None:
                placements.place(row, ticket)
                outputs[row] = output
        for source, target, direction in batch_update.moved:
            moved = outputs.pop(source, ())
            if direction is MoveDirectionality.SWAP:
                placements.swap(source, target)
                outputs[source] = outputs.get(target, ())
            else:
                placements.move(source, target)
            outputs[target] = moved

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Have this step's masks filled and apply them, in place."""
        if not self._placements:
            return logits
        stages.begin()
        self._step += 1
        slots = self._placements.slots()
        for slot in slots.tolist():
            known = _known(self._outputs[slot])
            self._board.lengths[slot], self._board.tokens[slot] = len(known), known[-1] if known else 0
        self._board.arrived[0] = self._step
        asked = self._placements.ask(self._step, np.arange(logits.shape[0]))
        stages.lap("announce")
        if asked.masks:
            self._gate.apply(self._step, asked, logits)
        stages.lap("apply")
        return logits


def _known(output: Sequence[int]) -> Sequence[int]:
    """The output tokens that are known."""
    return output[: output.index(PLACEHOLDER)] if PLACEHOLDER in output else output
