"""The GPU's kernels: newest tokens to the host, masks to the logits, and the time."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

BLOCK = 4096


def apply_bitmask(logits: torch.Tensor, masks: torch.Tensor, words: int, applied_at: Any) -> None:
    """Set the logits that the masks forbid to -inf, in place, in one launch.

    Args:
        logits: ``[batch, vocab]`` floating, on the GPU, its rows contiguous.
        masks: ``[masks, stride]`` int32: ``words`` words, a bit a token, the lowest first, and then the logits row; columns beyond
            the words are forbidden.
        applied_at: ``[1]`` int64 of pinned memory, which gets the time at which the kernel starts, in ns.
    """
    vocab = logits.shape[1]
    grid = (len(masks), triton.cdiv(vocab, BLOCK))
    _apply[grid](logits, logits.stride(0), masks, masks.stride(0), words, vocab, applied_at, BLOCK=BLOCK)


def send_newest(total_len: torch.Tensor, all_token_ids: torch.Tensor, lengths: Any, tokens: Any) -> None:
    """Write each slot's length and last token to the host, in one launch.

    Args:
        total_len: ``[slots]`` int32.
        all_token_ids: ``[slots, length]`` int32, its rows contiguous.
        lengths, tokens: ``[slots]`` int32 of pinned memory. A slot of no tokens has token 0.
    """
    slots = len(total_len)
    _send[(triton.cdiv(slots, 256),)](total_len, all_token_ids, all_token_ids.stride(0), lengths, tokens, slots, BLOCK=256)


def stamp(moment: Any) -> None:
    """Write the GPU's time, in ns, into ``[1]`` int64 of pinned memory."""
    _stamp[(1,)](moment)


# Told of the alignment, the compiler would give each thread four neighbouring logits, and the masked stores of a warp
# would no longer be neighbours.
@triton.jit(do_not_specialize=["stride"], do_not_specialize_on_alignment=["logits"])
def _apply(logits, stride, masks, mask_stride, words, vocab, applied_at, BLOCK: tl.constexpr):
    mask = tl.program_id(0)
    if (mask == 0) & (tl.program_id(1) == 0):
        tl.store(applied_at, tl.extra.cuda.globaltimer())
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    base = masks + mask.to(tl.int64) * mask_stride
    row = tl.load(base + words).to(tl.int64)
    word = tl.load(base + token // 32, mask=token // 32 < words, other=0)
    allowed = ((word >> (token % 32)) & 1) != 0
    tl.store(logits + row * stride + token, float("-inf"), mask=(token < vocab) & ~allowed)


@triton.jit
def _send(total_len, all_token_ids, stride, lengths, tokens, slots, BLOCK: tl.constexpr):
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = slot < slots
    length = tl.load(total_len + slot, mask=exists, other=0)
    token = tl.load(all_token_ids + slot.to(tl.int64) * stride + length - 1, mask=exists & (length > 0), other=0)
    tl.store(lengths + slot, length, mask=exists)
    tl.store(tokens + slot, token, mask=exists)


@triton.jit
def _stamp(moment):
    tl.store(moment, tl.extra.cuda.globaltimer())
