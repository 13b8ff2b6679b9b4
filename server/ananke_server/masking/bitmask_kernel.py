"""The GPU's kernels: newest tokens to the host, the wait for masks, and masks to the logits.

Each is compiled at its first call and for each new shape, and launched as compiled from then on: finding a compiled kernel
by its arguments costs several times as much as launching it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

WORDS = 256
# A word a thread: where there are fewer words than threads, Triton may have each logit's thread ask for its word again.
WARPS = WORDS // 32
SLOTS = 256


class ApplyBitmask:
    """Sets the logits that masks forbid to -inf, in place, in one launch."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[torch.dtype, int, int, int, int], Any] = {}

    def __call__(self, stream: int, logits: torch.Tensor, masks: Any, count: int, mask_stride: int, words: int) -> None:
        """Queue it on a stream, which is the current one.

        Args:
            logits: ``[batch, vocab]`` floating, on the GPU, its rows contiguous.
            masks: ``[count, mask_stride]`` int32 on the GPU or in pinned memory: ``words`` words, a bit a token, the lowest
                first, and then the logits row; columns beyond the words are forbidden.
        """
        vocab, stride = logits.shape[1], logits.stride(0)
        grid = (count, triton.cdiv(vocab, 32 * WORDS), 1)
        key = (logits.dtype, vocab, stride, mask_stride, words)
        compiled = self._compiled.get(key)
        if compiled is None:
            self._compiled[key] = _apply[grid](logits, stride, masks, mask_stride, words, vocab, WORDS=WORDS, num_warps=WARPS)
            return
        compiled[grid](logits.data_ptr(), stride, masks.data_ptr(), mask_stride, words, vocab, WORDS, stream=stream)


class SendNewest:
    """Writes each slot's length and last token to the host and then that they are there, in one launch."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[int, int], Any] = {}

    def __call__(
        self, stream: int, total_len: torch.Tensor, all_token_ids: torch.Tensor, lengths: Any, tokens: Any, arrived: Any, step: int
    ) -> None:
        """Queue it on a stream, which is the current one.

        Args:
            total_len: ``[slots]`` int32.
            all_token_ids: ``[slots, length]`` int32, its rows contiguous.
            lengths, tokens: ``[slots]`` int32 on the GPU or in pinned memory. A slot of no tokens has token 0.
            arrived: ``[1]`` int64 there, which gets ``step`` once who reads it sees the others too.
        """
        slots, stride = len(total_len), all_token_ids.stride(0)
        compiled = self._compiled.get((slots, stride))
        if compiled is None:
            arguments = total_len, all_token_ids, stride, lengths, tokens, slots, arrived, step
            self._compiled[slots, stride] = _send[(1, 1, 1)](*arguments, BLOCK=SLOTS)
            return
        total, ids, lengths, tokens, arrived = (each.data_ptr() for each in (total_len, all_token_ids, lengths, tokens, arrived))
        compiled[(1, 1, 1)](total, ids, stride, lengths, tokens, slots, arrived, step, SLOTS, stream=stream)


class Await:
    """Waits on the GPU until numbers in the host's memory have come to a value, and tells how long, in one launch."""

    def __init__(self) -> None:
        self._compiled: Any = None

    def __call__(self, stream: int, numbers: Any, awaited: int, value: int, begun_at: Any, over_at: Any) -> None:
        """Queue it on a stream, which is the current one.

        Args:
            numbers: ``[n, 8]`` int64 in pinned memory, of which the first column counts.
            awaited: the bits of those that are waited for, in a positive int64; one at least.
            begun_at, over_at: ``[1]`` int64 there, which get the times at which waiting begins and ends, in ns.
        """
        if self._compiled is None:
            self._compiled = _await[(1, 1, 1)](numbers, awaited, value, begun_at, over_at, LANES=64, num_warps=1)
            return
        pointers = numbers.data_ptr(), begun_at.data_ptr(), over_at.data_ptr()
        self._compiled[(1, 1, 1)](pointers[0], awaited, value, pointers[1], pointers[2], 64, stream=stream)


# The masks may lie in the host's memory, so each thread reads a word of its own, and the bits are spread over the logits' threads
# afterwards: twice as fast as when the 32 threads of a word's logits each asked for it. Nothing is said of alignment: told of it, the
# compiler would give each thread four neighbouring logits, and the masked stores of a warp would no longer be neighbours. Besides,
# pointers come with any alignment to what was compiled for the first ones.
@triton.jit(do_not_specialize=["stride"], do_not_specialize_on_alignment=["logits", "masks"])
def _apply(logits, stride, masks, mask_stride, words, vocab, WORDS: tl.constexpr):
    mask = tl.program_id(0)
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    bit = tl.arange(0, 32)[None, :]
    base = masks + mask.to(tl.int64) * mask_stride
    row = tl.load(base + words).to(tl.int64)
    bits = tl.load(base + word, mask=word < words, other=0)
    allowed = ((bits[:, None] >> bit) & 1) != 0
    token = word[:, None] * 32 + bit
    tl.store(logits + row * stride + token, float("-inf"), mask=(token < vocab) & ~allowed)


@triton.jit(do_not_specialize=["step"], do_not_specialize_on_alignment=["total_len", "all_token_ids", "lengths", "tokens", "arrived"])
def _send(total_len, all_token_ids, stride, lengths, tokens, slots, arrived, step: tl.int64, BLOCK: tl.constexpr):
    for first in range(0, slots, BLOCK):
        slot = first + tl.arange(0, BLOCK)
        exists = slot < slots
        length = tl.load(total_len + slot, mask=exists, other=0)
        token = tl.load(all_token_ids + slot.to(tl.int64) * stride + length - 1, mask=exists & (length > 0), other=0)
        tl.store(lengths + slot, length, mask=exists)
        tl.store(tokens + slot, token, mask=exists)
    # What all threads wrote before the barrier is seen by whoever sees what one of them releases after it.
    tl.debug_barrier()
    tl.inline_asm_elementwise(
        "st.release.sys.global.u64 [$1], $2; mov.u64 $0, $2;",
        "=l,l,l",
        [arrived.to(tl.int64), step],
        dtype=tl.int64,
        is_pure=False,
        pack=1,
    )


@triton.jit(do_not_specialize=["awaited", "value"], do_not_specialize_on_alignment=["numbers", "begun_at", "over_at"])
def _await(numbers, awaited: tl.int64, value: tl.int64, begun_at, over_at, LANES: tl.constexpr):
    tl.store(begun_at, tl.extra.cuda.globaltimer())
    lane = tl.arange(0, LANES).to(tl.int64)
    is_awaited = ((awaited >> lane) & 1) != 0
    # Lanes of others look where one that is awaited does.
    first = tl.min(tl.where(is_awaited, lane, LANES), 0)
    address = numbers.to(tl.int64) + tl.where(is_awaited, lane, first) * 64
    least = tl.min(_acquired(address), 0)
    while least < value:
        least = tl.min(_acquired(address), 0)
    tl.store(over_at, tl.extra.cuda.globaltimer())


@triton.jit
def _acquired(address):
    return tl.inline_asm_elementwise("ld.acquire.sys.global.u64 $0, [$1];", "=l,l", [address], dtype=tl.int64, is_pure=False, pack=1)
