"""The masks of a batch: slots, their guides, and the bitmask that says which tokens each row may sample."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from llguidance import LLExecutor, LLMatcher
from numpy.typing import NDArray

from ananke_server.masking.guides import Guide, GuideStore
from ananke_server.masking.stage_times import StageTimes


class RowRequest(NamedTuple):
    """A row of this step's logits, the slot it belongs to, and the tokens its request has sampled since its last mask."""

    row: int
    slot: int
    new_tokens: Sequence[int]


class GuidedBatch:
    """The guided requests of an engine's batch, by slot.

    A slot is whatever the engine keeps a request at between two steps: a row of the batch (vLLM's V1 runner) or a
    persistent index (V2). Slots without a guide belong to unconstrained requests and cost nothing.
    """

    def __init__(self, store: GuideStore, *, threads: int = 1) -> None:
        self.store = store
        self.words = (store.tokenizer.vocab_size + 31) // 32
        self.slots: dict[int, Guide] = {}
        self.stages = StageTimes.from_environment()
        self._executor = LLExecutor(threads) if threads > 1 else None
        self._leaf_masks = np.zeros((0, self.words), dtype=np.int32)
        self._eos_only = np.zeros(self.words, dtype=np.uint32)
        self._ends = frozenset(store.tokenizer.eos_tokens)
        for token in self._ends:
            self._eos_only[token // 32] |= np.uint32(1 << token % 32)

    def place(self, slot: int, guide: Guide) -> None:
        """Put a request at a slot, whoever was there before."""
        self.slots[slot] = guide

    def remove(self, slot: int) -> None:
        """Clear a slot."""
        self.slots.pop(slot, None)

    def move(self, source: int, target: int) -> None:
        """Move whatever is at ``source``, nothing included, to ``target``."""
        self.remove(target)
        if (guide := self.slots.pop(source, None)) is not None:
            self.slots[target] = guide

    def swap(self, first: int, second: int) -> None:
        """Exchange two slots."""
        guides = self.slots.pop(first, None), self.slots.pop(second, None)
        for slot, guide in zip((second, first), guides, strict=True):
            if guide is not None:
                self.slots[slot] = guide

    def forget_released(self) -> None:
        """Clear the slots of requests that have ended, for engines that do not say when they do."""
        for slot in [slot for slot, guide in self.slots.items() if guide.released]:
            del self.slots[slot]

    def fill(self, requests: Sequence[RowRequest], bitmask: NDArray[np.int32]) -> list[int]:
        """Consume what was sampled and fill one mask a guided row, the whole batch in parallel and outside the GIL.

        Args:
            requests: this step's rows; those of unguided slots are passed over.
            bitmask: ``[rows, words]`` int32, C-contiguous; mask ``i`` is written to row ``i`` for the ``i``-th row of the result.

        Returns:
            The logits rows that have a mask, in the order of ``bitmask``.
        """
        started = time.perf_counter_ns()
        guided = [(request, guide) for request in requests if (guide := self.slots.get(request.slot)) is not None]
        self._consume([(guide, request.new_tokens) for request, guide in guided])
        self.stages.lap("consume")
        self._compute([guide for _, guide in guided], bitmask)
        self.stages.lap("compute")
        if self.store.counts:
            self.store.table.count_step([guide.ticket for _, guide in guided], time.perf_counter_ns() - started)
        self.stages.lap("count")
        return [request.row for request, _ in guided]

    def _consume(self, advances: list[tuple[Guide, Sequence[int]]]) -> None:
        single: list[tuple[LLMatcher, int]] = []
        for guide, tokens in advances:
            guide.consumed += len(tokens)
            if guide.matcher is None or not tokens:
                continue
            for leaf in guide.matcher.leaves:
                if leaf.optional:
                    leaf.follow(tokens, self._ends)
                elif len(tokens) == 1:
                    single.append((leaf.matcher, tokens[0]))
                else:
                    leaf.matcher.consume_tokens(list(tokens))
        if self._executor is not None and len(single) > 1:
            self._executor.consume_token_par(single)
        else:
            for matcher, token in single:
                matcher.consume_token(token)

    def _compute(self, guides: list[Guide], bitmask: NDArray[np.int32]) -> None:
        leaves = [() if guide.matcher is None else guide.matcher.leaves for guide in guides]
        starts = [0]
        for row_leaves in leaves:
            starts.append(starts[-1] + max(1, len(row_leaves)))
        # Where every guide is a single grammar, its mask goes straight to its row.
        masks = bitmask if starts[-1] == len(guides) else self._scratch(starts[-1])
        live = [
            (leaf.matcher, row)
            for start, row_leaves in zip(starts, leaves, strict=False)
            for row, leaf in enumerate(row_leaves, start)
            if not leaf.left_behind
        ]
        address, stride = masks.ctypes.data, self.words * 4
        if self._executor is not None and len(live) > 1:
            self._executor.unsafe_compute_mask_ptr(live, address, stride, len(masks))
        else:
            for matcher, row in live:
                matcher.unsafe_compute_mask_ptr(address + row * stride, stride)
        for row, (guide, start) in enumerate(zip(guides, starts, strict=False)):
            if guide.matcher is not None and masks is not bitmask:
                guide.matcher.combine(masks[start : start + len(leaves[row])], bitmask[row])
            if guide.matcher is not None and guide.matcher.is_error():
                self.store.fail(guide)
            if guide.matcher is None:
                bitmask[row] = self._eos_only.view(np.int32)

    def _scratch(self, rows: int) -> NDArray[np.int32]:
        if rows > len(self._leaf_masks):
            self._leaf_masks = np.zeros((2 * rows, self.words), dtype=np.int32)
        return self._leaf_masks
