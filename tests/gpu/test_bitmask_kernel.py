"""The GPU kernel against a plain loop of torch; needs torch, triton and a GPU, nothing else of the project's."""

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)
from ananke_server.masking.bitmask_kernel import apply_bitmask  # noqa: E402


def expected(logits, bitmask, rows):
    result = logits.clone()
    for mask, row in zip(bitmask.cpu(), rows.tolist(), strict=True):
        bits = (mask[:, None] >> torch.arange(32)) & 1
        allowed = torch.zeros(logits.shape[1], dtype=torch.bool)
        width = min(logits.shape[1], bits.numel())
        allowed[:width] = bits.flatten()[:width].bool()
        result[row, ~allowed.to(result.device)] = float("-inf")
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("vocab", "words"), [(49_152, 1_536), (152_064, 4_739), (100, 4), (151_936, 4_750), (33, 2)])
@pytest.mark.parametrize("masks", [1, 5, 64])
def test_kernel_equals_the_loop(dtype, vocab, words, masks):
    generator = torch.Generator("cuda").manual_seed(vocab + masks)
    logits = torch.randn((64, vocab), dtype=dtype, device="cuda", generator=generator)
    bitmask = torch.randint(-(2**31), 2**31, (masks, words), dtype=torch.int64, device="cuda", generator=generator).to(torch.int32)
    rows = torch.randperm(64, device="cuda", generator=generator)[:masks].to(torch.int32)
    want = expected(logits, bitmask, rows)
    apply_bitmask(logits, bitmask, rows)
    assert torch.equal(logits, want)
