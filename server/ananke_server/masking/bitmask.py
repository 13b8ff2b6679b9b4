"""Bitmasks to logits on the host.

Imports torch lazily: vLLM loads the modules that import this one in its frontend too, where they must stay light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def forbid(logits: torch.Tensor, masks: NDArray[np.int32], rows: NDArray[np.int32]) -> None:
    """Set the logits that the masks forbid to -inf, in place.

    Args:
        logits: ``[batch, vocab]`` floating, on any device; columns beyond the masks' width are forbidden too.
        masks: ``[masks, words]`` int32, a bit a token, the lowest first.
        rows: ``[masks]`` int32, the logits row of each mask.
    """
    import torch

    vocab = logits.shape[1]
    bits = np.unpackbits(np.ascontiguousarray(masks).view(np.uint8), axis=1, bitorder="little")[:, :vocab]
    forbidden = np.ones((len(rows), vocab), dtype=np.bool_)
    np.logical_not(bits, out=forbidden[:, : bits.shape[1]])
    mask = torch.from_numpy(forbidden).to(logits.device)
    if len(rows) == logits.shape[0] and (rows == np.arange(len(rows))).all():
        logits.masked_fill_(mask, float("-inf"))
        return
    targets = torch.from_numpy(rows.astype(np.int64)).to(logits.device)
    logits[targets] = logits[targets].masked_fill_(mask, float("-inf"))
