"""The GPU's kernels against plain torch; needs torch, triton and a GPU, nothing else of the project's."""

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)
from ananke_server.masking.bitmask_kernel import apply_bitmask, send_newest  # noqa: E402


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
    padding = torch.full((masks, 3), 7, dtype=torch.int32, device="cuda")
    moment = torch.zeros(1, dtype=torch.int64, device="cuda")
    apply_bitmask(logits, torch.cat((bitmask, rows[:, None], padding), dim=1), words, moment)
    assert torch.equal(logits, want)
    assert moment.item() > 0


@pytest.mark.parametrize("slots", [1, 5, 256, 1000])
def test_the_newest_token_of_each_slot_is_sent(slots):
    tokens = torch.randint(0, 1 << 20, (slots, 40), dtype=torch.int32, device="cuda")
    lengths = torch.randint(0, 41, (slots,), dtype=torch.int32, device="cuda")
    sent_lengths, sent_tokens = torch.full((2, slots + 1), -9, dtype=torch.int32, device="cuda")
    send_newest(lengths, tokens, sent_lengths, sent_tokens)
    assert torch.equal(sent_lengths[:-1], lengths)
    want = tokens.gather(1, (lengths.long() - 1).clamp(min=0)[:, None])[:, 0]
    assert torch.equal(sent_tokens[:-1], torch.where(lengths > 0, want, 0))
    assert sent_lengths[-1] == sent_tokens[-1] == -9
