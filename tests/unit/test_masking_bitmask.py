"""Applying bitmasks to logits on the host, against a loop over every logit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ananke_server.masking.bitmask import forbid  # noqa: E402

ROWS = 6
WORDS = 3


def random_masks(rows: int, seed: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.random.default_rng(seed).integers(-(2**31), 2**31, (rows, WORDS), dtype=np.int32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("vocab", [50, 64, 69, 96, 128])
@pytest.mark.parametrize("rows", [[], [0], [5], [0, 1, 2, 3, 4, 5], [1, 3], [4, 0, 2], [5, 4, 3, 2, 1, 0], [0, 1, 2]], ids=str)
def test_only_masked_rows_lose_exactly_their_forbidden_logits(rows: list[int], vocab: int, dtype: Any) -> None:
    for seed in range(3):
        masks = random_masks(len(rows), seed)
        logits = torch.randn(ROWS, vocab, generator=torch.Generator().manual_seed(1)).to(dtype)
        expected = logits.clone()
        for mask, row in zip(masks, rows, strict=True):
            for token in range(vocab):
                if token >= 32 * WORDS or not int(mask[token // 32]) >> token % 32 & 1:
                    expected[row, token] = -torch.inf
        address = logits.data_ptr()
        forbid(logits, masks, np.array(rows, dtype=np.int32))
        assert logits.data_ptr() == address
        assert torch.equal(logits, expected)


def test_masks_may_lie_apart_as_they_do_on_the_board() -> None:
    whole = np.full((4, WORDS + 5), -1, dtype=np.int32)
    whole[:, :WORDS] = random_masks(4, 7)
    apart, together = torch.zeros(4, 96), torch.zeros(4, 96)
    forbid(apart, whole[:, :WORDS], np.arange(4, dtype=np.int32))
    forbid(together, np.ascontiguousarray(whole[:, :WORDS]), np.arange(4, dtype=np.int32))
    assert torch.equal(apart, together)
    assert torch.isinf(apart).any()


@pytest.mark.parametrize("rows", [[0, 1], [1]])
def test_logits_that_are_a_view_are_masked_in_place(rows: list[int]) -> None:
    whole = torch.zeros(4, 100)
    forbid(whole[1:3, :40], np.ones((len(rows), 2), dtype=np.int32), np.array(rows, dtype=np.int32))
    forbidden = torch.zeros(4, 100, dtype=torch.bool)
    for row in rows:
        forbidden[1 + row, 1:40] = True
        forbidden[1 + row, 32] = False
    assert torch.equal(torch.isinf(whole), forbidden)
