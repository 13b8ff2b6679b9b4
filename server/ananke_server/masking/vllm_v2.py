"""The logits processor for vLLM's V2 model runner.

V2 keeps sampled tokens on the GPU and asks for masks without ever handing them over. So before each forward pass the
newest token of every guided slot starts on its way to pinned memory, and ``apply`` waits for that copy alone: masks
are computed while the forward pass, queued in the meantime, runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcessor, LogitsProcRequestState

from ananke_server.masking.batch import GuidedBatch, RowRequest
from ananke_server.masking.bitmask import BitmaskBuffer
from ananke_server.masking.worker import GuideOrder, make_batch, take_guide

if TYPE_CHECKING:
    import torch
    from vllm import SamplingParams
    from vllm.config import VllmConfig


class LlguidanceV2(LogitsProcessor):
    """Masks the rows of constrained requests; a slot is the request's persistent index."""

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        self._batch: GuidedBatch = make_batch(vllm_config)
        self._states = req_states
        self._bitmask = BitmaskBuffer(req_states.max_num_reqs, self._batch.words, req_states.device)
        self._newest = _NewestTokens(req_states)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        GuideOrder.of(sampling_params)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Take the slot over from whoever had it; a request resumed after preemption comes this way again."""
        order = GuideOrder.of(sampling_params)
        if order is None:
            self._batch.remove(req_idx)
            return False
        self._batch.place(req_idx, take_guide(self._batch, order))
        return True

    def apply_staged_writes(self) -> None:
        """Start copying the newest tokens to the host, behind the last step's sampling on the stream."""
        self._batch.forget_released()
        if self._batch.slots:
            self._batch.stages.begin()
            self._newest.fetch(list(self._batch.slots))
            self._batch.stages.lap("fetch")

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        """Consume what the last step sampled, fill this step's masks and apply them, in place."""
        slots = ctx.idx_mapping_np
        guided = [(row, slot) for row, slot in enumerate(slots.tolist()) if slot in self._batch.slots]
        if not guided:
            return logits
        assert logits.shape[0] == len(slots), "speculative decoding is refused at start"
        stages = self._batch.stages
        stages.begin()
        stages.mark_forward()
        newest = self._newest.wait()
        stages.lap("last_token")
        prompts = self._states.prompt_len.np[slots].tolist()
        requests = [RowRequest(row, slot, self._new_tokens(slot, prompts[row], *newest[slot])) for row, slot in guided]
        bitmask = self._bitmask.next()
        stages.lap("gather")
        masked = self._batch.fill(requests, bitmask)
        stages.mark_masks()
        self._bitmask.apply(logits, masked)
        stages.lap("apply")
        return logits

    def _new_tokens(self, slot: int, prompt: int, length: int, token: int) -> list[int]:
        """The tokens of a slot that its guide has not consumed: one a step, more only after preemption."""
        start = prompt + self._batch.slots[slot].consumed
        if length - start <= 1:
            return [token] if length > start else []
        tokens: list[int] = self._states.all_token_ids.gpu[slot, start:length].cpu().tolist()
        return tokens


class _NewestTokens:
    """The length and the last token of slots, brought from the GPU without holding up its stream."""

    def __init__(self, states: LogitsProcRequestState) -> None:
        import torch

        self._states = states
        self._slots = torch.zeros(states.max_num_reqs, dtype=torch.int64, pin_memory=True)
        # A row a slot: only into contiguous memory does a copy leave without waiting for the GPU.
        self._host = torch.zeros((states.max_num_reqs, 2), dtype=torch.int32, pin_memory=True)
        self._event = torch.cuda.Event()
        self._fetched: list[int] = []

    def fetch(self, slots: list[int]) -> None:
        import torch

        # The last copy out of the pinned slot numbers must be over before they are overwritten.
        self._event.synchronize()
        count = len(slots)
        self._fetched = slots
        self._slots[:count] = torch.tensor(slots, dtype=torch.int64)
        index = self._slots[:count].to(self._states.device, non_blocking=True)
        lengths = self._states.total_len.gpu[index]
        last = (lengths - 1).clamp_(min=0).to(torch.int64)
        tokens = self._states.all_token_ids.gpu[index, last]
        self._host[:count].copy_(torch.stack((lengths, tokens), dim=1), non_blocking=True)
        self._event.record()

    def wait(self) -> dict[int, list[int]]:
        """``{slot: [length, last token]}`` of the last ``fetch``."""
        self._event.synchronize()
        return dict(zip(self._fetched, self._host[: len(self._fetched)].tolist(), strict=True))
