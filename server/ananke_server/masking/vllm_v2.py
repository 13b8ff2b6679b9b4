"""The logits processor for vLLM's V2 model runner.

V2 keeps sampled tokens on the GPU and asks for masks without ever handing them over. So before each forward pass the
newest tokens start on their way to the mask processes, which fill the masks while the forward pass runs; the GPU's stream
waits for them, and the engine's thread, which would otherwise be late with the next step, does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcessor, LogitsProcRequestState

from ananke_server.masking.gate import Gate, HostGate
from ananke_server.masking.placements import Placements
from ananke_server.masking.worker import make_placements, stages, ticket_of

if TYPE_CHECKING:
    import torch
    from vllm import SamplingParams
    from vllm.config import VllmConfig


class LlguidanceV2(LogitsProcessor):
    """Masks the rows of constrained requests; a slot is the request's persistent index."""

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        self._placements = make_placements(vllm_config)
        self._states = req_states
        self._gate = _gate(self._placements, req_states)
        self._step = 0
        self._sent = 0
        self._expects_rows = False

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        ticket_of(sampling_params)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Take the slot over from whoever had it; a request resumed after preemption comes this way again."""
        ticket = ticket_of(sampling_params)
        if ticket is None:
            self._placements.remove(req_idx)
            return False
        self._placements.place(req_idx, ticket, int(self._states.prompt_len.np[req_idx]))
        self._expects_rows = True
        return True

    def apply_staged_writes(self) -> None:
        """Send the newest tokens to the mask processes, behind the last step's sampling on the stream.

        Ranks of a tensor-parallel group count their steps alike, for what one of them announces all wait.
        """
        self._step += 1
        stages.begin()
        if self._expects_rows:
            self._send()
        stages.lap("send")

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        """Have this step's masks filled, and queue their application, in place."""
        if not self._placements:
            return logits
        stages.begin()
        asked = self._placements.ask(self._step, ctx.idx_mapping_np)
        # Requests that have ended keep their slots until these are taken over: nothing is sent for their sake.
        self._expects_rows = bool(asked.masks)
        stages.lap("announce")
        if not asked.masks:
            return logits
        assert logits.shape[0] == len(ctx.idx_mapping_np), "speculative decoding is refused at start"
        if self._sent != self._step:
            self._send()
        self._gate.apply(self._step, asked, logits)
        stages.lap("apply")
        return logits

    def _send(self) -> None:
        self._sent = self._step
        if self._placements.writes:
            self._gate.send(self._step, self._states.total_len.gpu, self._states.all_token_ids.gpu)


def _gate(placements: Placements, states: LogitsProcRequestState) -> Gate:
    if states.device.type != "cuda":
        return HostGate(placements.board)
    from ananke_server.masking.cuda_gate import CudaGate

    return CudaGate(placements.board, states.total_len.gpu, states.all_token_ids.gpu, states.vocab_size)
