"""The GPU's kernels: newest tokens to the host, masks to the logits, and the time.

Each is compiled at its first call and for each new shape, and launched as compiled from then on: finding a compiled kernel
by its arguments costs several times as much as launching it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

BLOCK = 4096
SLOTS = 256


class ApplyBitmask:
    """Sets the logits that masks forbid to -inf, in place, in one launch."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[torch.dtype, int, int, int, int], Any] = {}

    def __call__(self, stream: int, logits: torch.Tensor, masks: Any, count: int, mask_stride: int, words: int, applied_at: Any) -> None:
        """Queue it on a stream, which is the current one.

        Args:
            logits: ``[batch, vocab]`` floating, on the GPU, its rows contiguous.
            masks: ``[count, mask_stride]`` int32 on the GPU or in pinned memory: ``words`` words, a bit a token, the lowest
                first, and then the logits row; columns beyond the words are forbidden.
            applied_at: ``[1]`` int64 there, which gets the time at which the kernel starts, in ns.
        """
        vocab, stride = logits.shape[1], logits.stride(0)
        grid = (count, triton.cdiv(vocab, BLOCK), 1)
        key = (logits.dtype, vocab, stride, mask_stride, words)
        compiled = self._compiled.get(key)
        if compiled is None:
            self._compiled[key] = _apply[grid](logits, stride, masks, mask_stride, words, vocab, applied_at, BLOCK=BLOCK)
            return
        pointers = logits.data_ptr(), masks.data_ptr(), applied_at.data_ptr()
        compiled[grid](pointers[0], stride, pointers[1], mask_stride, words, vocab, pointers[2], BLOCK, stream=stream)


class SendNewest:
    """Writes each slot's length and last token to the host, in one launch."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[int, int], Any] = {}

    def __call__(self, stream: int, total_len: torch.Tensor, all_token_ids: torch.Tensor, lengths: Any, tokens: Any) -> None:
        """Queue it on a stream, which is the current one.

        Args:
            total_len: ``[slots]`` int32.
            all_token_ids: ``[slots, length]`` int32, its rows contiguous.
            lengths, tokens: ``[slots]`` int32 on the GPU or in pinned memory. A slot of no tokens has token 0.
        """
        slots, stride = len(total_len), all_token_ids.stride(0)
        grid = (triton.cdiv(slots, SLOTS), 1, 1)
        compiled = self._compiled.get((slots, stride))
        if compiled is None:
            self._compiled[slots, stride] = _send[grid](total_len, all_token_ids, stride, lengths, tokens, slots, BLOCK=SLOTS)
            return
        pointers = [argument.data_ptr() for argument in (total_len, all_token_ids, lengths, tokens)]
        compiled[grid](pointers[0], pointers[1], stride, pointers[2], pointers[3], slots, SLOTS, stream=stream)


class Stamp:
    """Writes the GPU's time."""

    def __init__(self) -> None:
        self._compiled: Any = None

    def __call__(self, stream: int, moment: Any) -> None:
        """Queue it on a stream, which is the current one: ``moment``, ``[1]`` int64 of pinned memory, gets the time in ns."""
        if self._compiled is None:
            self._compiled = _stamp[(1, 1, 1)](moment)
            return
        self._compiled[(1, 1, 1)](moment.data_ptr(), stream=stream)


# Told of the alignment, the compiler would give each thread four neighbouring logits, and the masked stores of a warp
# would no longer be neighbours. Pointers come with any alignment to what was compiled for the first ones.
@triton.jit(do_not_specialize=["stride"], do_not_specialize_on_alignment=["logits", "masks", "applied_at"])
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


@triton.jit(do_not_specialize_on_alignment=["total_len", "all_token_ids", "lengths", "tokens"])
def _send(total_len, all_token_ids, stride, lengths, tokens, slots, BLOCK: tl.constexpr):
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = slot < slots
    length = tl.load(total_len + slot, mask=exists, other=0)
    token = tl.load(all_token_ids + slot.to(tl.int64) * stride + length - 1, mask=exists & (length > 0), other=0)
    tl.store(lengths + slot, length, mask=exists)
    tl.store(tokens + slot, token, mask=exists)


@triton.jit(do_not_specialize_on_alignment=["moment"])
def _stamp(moment):
    tl.store(moment, tl.extra.cuda.globaltimer())
