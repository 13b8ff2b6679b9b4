"""The logits processor for vLLM's V1 model runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vllm.v1.sample.logits_processor.interface import BatchUpdate, LogitsProcessor, MoveDirectionality

from ananke_server.masking.batch import GuidedBatch, RowRequest
from ananke_server.masking.bitmask import BitmaskBuffer
from ananke_server.masking.guides import Guide
from ananke_server.masking.worker import GuideOrder, make_batch, take_guide

if TYPE_CHECKING:
    import torch
    from vllm import SamplingParams
    from vllm.config import VllmConfig

PLACEHOLDER = -1
"""Stands in a V1 output list for a token that was sampled, but is not known on the host yet."""


class LlguidanceV1(LogitsProcessor):
    """Masks the rows of constrained requests; a slot is a row of vLLM's persistent batch."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._batch: GuidedBatch = make_batch(vllm_config)
        self._bitmask = BitmaskBuffer(vllm_config.scheduler_config.max_num_seqs, self._batch.words, device)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        GuideOrder.of(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the persistent batch: requests that left, joined, moved or changed places, in this order."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._batch.remove(row)
        for row, params, _prompt, output in batch_update.added:
            self._batch.remove(row)
            if (order := GuideOrder.of(params)) is not None:
                # A request resumed after preemption comes with output; its guide starts over and consumes it again.
                guide = take_guide(self._batch, order)
                guide.output = output
                self._batch.place(row, guide)
        for source, target, direction in batch_update.moved:
            if direction is MoveDirectionality.SWAP:
                self._batch.swap(source, target)
            else:
                self._batch.move(source, target)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Consume what the last step sampled, fill this step's masks and apply them, in place."""
        if not self._batch.slots:
            return logits
        stages = self._batch.stages
        stages.begin()
        rows = [row for row in sorted(self._batch.slots) if row < logits.shape[0]]
        requests = [RowRequest(row, row, _new_tokens(self._batch.slots[row])) for row in rows]
        bitmask = self._bitmask.next()
        stages.lap("gather")
        self._bitmask.apply(logits, self._batch.fill(requests, bitmask))
        stages.lap("apply")
        return logits


def _new_tokens(guide: Guide) -> Sequence[int]:
    """The known output tokens that a guide has not consumed."""
    if len(guide.output) < guide.consumed:
        guide.rewind()
    tokens = guide.output[guide.consumed :]
    return tokens[: tokens.index(PLACEHOLDER)] if PLACEHOLDER in tokens else tokens
