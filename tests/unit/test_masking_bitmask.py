"""Applying bitmasks to logits on the CPU, against a loop over every logit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ananke_server.masking.bitmask import BitmaskBuffer  # noqa: E402

ROWS = 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("vocab", [50, 64, 69, 96, 128])
@pytest.mark.parametrize("rows", [[], [0], [5], [0, 1, 2, 3, 4, 5], [1, 3], [4, 0, 2], [5, 4, 3, 2, 1, 0], [0, 1, 2]], ids=str)
def test_only_masked_rows_lose_exactly_their_forbidden_logits(rows: list[int], vocab: int, dtype: Any) -> None:
    chooser = random.Random(f"{rows}{vocab}")
    buffer = BitmaskBuffer(ROWS, 3, torch.device("cpu"))
    for _ in range(3):
        masks = buffer.next()
        masks[:] = np.random.default_rng(chooser.randrange(1000)).integers(-(2**31), 2**31, masks.shape, dtype=np.int32)
        logits = torch.randn(ROWS, vocab, generator=torch.Generator().manual_seed(1)).to(dtype)
        expected = logits.clone()
        for mask, row in zip(masks, rows, strict=False):
            for token in range(vocab):
                if token >= 96 or not int(mask[token // 32]) >> token % 32 & 1:
                    expected[row, token] = -torch.inf
        address = logits.data_ptr()
        buffer.apply(logits, rows)
        assert logits.data_ptr() == address
        assert torch.equal(logits, expected)


def test_logits_that_are_a_view_are_masked_in_place() -> None:
    whole = torch.zeros(4, 100)
    buffer = BitmaskBuffer(4, 2, torch.device("cpu"))
    buffer.next()[:] = 1
    buffer.apply(whole[1:3, :40], [0, 1])
    forbidden = torch.zeros(4, 100, dtype=torch.bool)
    forbidden[1:3, 1:40] = True
    forbidden[1:3, 32] = False
    assert torch.equal(torch.isinf(whole), forbidden)


def test_two_buffers_take_turns() -> None:
    buffer = BitmaskBuffer(2, 1, torch.device("cpu"))
    first, second = buffer.next(), buffer.next()
    first[:], second[:] = 1, 2
    assert not np.shares_memory(first, second)
    assert np.shares_memory(first, buffer.next())
    logits = torch.zeros(2, 3)
    buffer.apply(logits, [1])
    assert torch.isinf(logits).tolist() == [[False] * 3, [False, True, True]]
