"""The GPU kernel that applies bitmasks to logits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 4096


def apply_bitmask(logits: torch.Tensor, bitmask: torch.Tensor, rows: torch.Tensor) -> None:
    """Set the logits that the masks forbid to -inf, in place, in one launch.

    Args:
        logits: ``[batch, vocab]`` floating, on the GPU, its rows contiguous.
        bitmask: ``[masks, words]`` int32, a bit a token, the lowest first; columns beyond are forbidden.
        rows: ``[masks]`` int32, the logits row of each mask.
    """
    masks, words = bitmask.shape
    vocab = logits.shape[1]
    _apply[(masks, triton.cdiv(vocab, BLOCK))](logits, logits.stride(0), bitmask, words, rows, vocab, BLOCK=BLOCK)


@triton.jit
def _apply(logits, stride, bitmask, words, rows, vocab, BLOCK: tl.constexpr):
    mask = tl.program_id(0)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(rows + mask).to(tl.int64)
    word = tl.load(bitmask + mask.to(tl.int64) * words + token // 32, mask=token // 32 < words, other=0)
    allowed = ((word >> (token % 32)) & 1) != 0
    tl.store(logits + row * stride + token, float("-inf"), mask=(token < vocab) & ~allowed)
