"""Bitmask buffers, and their one-launch application to logits.

Imports torch lazily: vLLM loads the modules that import this one in its frontend too, where they must stay light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


class BitmaskBuffer:
    """Two host buffers in turn, so that one can be filled while the other is still being copied to the device."""

    def __init__(self, rows: int, words: int, device: torch.device) -> None:
        import torch

        self.device = device
        self._on_gpu = device.type == "cuda"
        self._host = [torch.zeros((rows, words), dtype=torch.int32, pin_memory=self._on_gpu) for _ in range(2)]
        self._rows = [torch.zeros(rows, dtype=torch.int32, pin_memory=self._on_gpu) for _ in range(2)]
        self._copied: list[torch.cuda.Event | None] = [None, None]
        self._current = 0

    def next(self) -> NDArray[np.int32]:
        """The buffer to fill, ``[rows, words]`` int32; waits for its last copy, long done as a rule."""
        self._current ^= 1
        if (copied := self._copied[self._current]) is not None:
            copied.synchronize()
        array: NDArray[np.int32] = self._host[self._current].numpy()
        return array

    def apply(self, logits: torch.Tensor, rows: list[int]) -> None:
        """Set every logit that the first ``len(rows)`` masks forbid to -inf, in place.

        Args:
            logits: ``[batch, vocab]`` floating; columns beyond the masks' width are forbidden too.
            rows: the logits row of each mask.
        """
        if not rows:
            return
        host, indices = self._host[self._current], self._rows[self._current]
        if not self._on_gpu:
            _apply_on_cpu(logits, host.numpy()[: len(rows)], rows)
            return

        import torch

        from ananke_server.masking.bitmask_kernel import apply_bitmask

        indices[: len(rows)] = torch.tensor(rows, dtype=torch.int32)
        mask = host[: len(rows)].to(self.device, non_blocking=True)
        targets = indices[: len(rows)].to(self.device, non_blocking=True)
        event = self._copied[self._current] = self._copied[self._current] or torch.cuda.Event()
        event.record()
        apply_bitmask(logits, mask, targets)


def _apply_on_cpu(logits: torch.Tensor, bitmask: NDArray[np.int32], rows: list[int]) -> None:
    import torch

    vocab = logits.shape[1]
    bits = np.unpackbits(np.ascontiguousarray(bitmask).view(np.uint8), axis=1, bitorder="little")[:, :vocab]
    forbidden = np.ones((len(rows), vocab), dtype=np.bool_)
    np.logical_not(bits, out=forbidden[:, : bits.shape[1]])
    if rows == list(range(logits.shape[0])):
        logits.masked_fill_(torch.from_numpy(forbidden), float("-inf"))
        return
    targets = torch.tensor(rows)
    logits[targets] = logits[targets].masked_fill_(torch.from_numpy(forbidden), float("-inf"))
