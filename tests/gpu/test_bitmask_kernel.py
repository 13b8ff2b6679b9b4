"""The GPU's kernels against plain torch; needs torch, triton and a GPU, nothing else of the project's."""

import time

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)
from ananke_server.masking.bitmask_kernel import ApplyBitmask, Await, SendNewest  # noqa: E402


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
    twice = logits.clone(), logits
    want = expected(logits, bitmask, rows)
    padding = torch.full((masks, 3), 7, dtype=torch.int32, device="cuda")
    padded = torch.cat((bitmask, rows[:, None], padding), dim=1)
    apply, stream = ApplyBitmask(), torch.cuda.current_stream().cuda_stream
    # The second time it is launched as compiled.
    for each in twice:
        apply(stream, each, padded, masks, padded.stride(0), words)
        assert torch.equal(each, want)


@pytest.mark.parametrize("slots", [1, 5, 256, 1000])
def test_the_newest_token_of_each_slot_is_sent(slots):
    tokens = torch.randint(0, 1 << 20, (slots, 40), dtype=torch.int32, device="cuda")
    lengths = torch.randint(0, 41, (slots,), dtype=torch.int32, device="cuda")
    sent_lengths, sent_tokens = torch.full((2, slots + 1), -9, dtype=torch.int32).pin_memory()
    arrived = torch.full((1,), -1, dtype=torch.int64).pin_memory()
    send = SendNewest()
    for step in (0, 1 << 40):
        send(torch.cuda.current_stream().cuda_stream, lengths, tokens, sent_lengths, sent_tokens, arrived, step)
        # Nothing but the number says that the rest is there.
        while arrived.item() != step:
            pass
        there = sent_lengths.clone(), sent_tokens.clone()
        assert torch.equal(there[0][:-1], lengths.cpu())
        want = tokens.gather(1, (lengths.long() - 1).clamp(min=0)[:, None])[:, 0]
        assert torch.equal(there[1][:-1], torch.where(lengths > 0, want, 0).cpu())
        assert sent_lengths[-1] == sent_tokens[-1] == -9
        sent_lengths.fill_(-9)
        sent_tokens.fill_(-9)


@pytest.mark.parametrize("awaited", [0b1, 0b100, 0b1011, 1 << 61 | 1])
def test_the_stream_waits_for_the_numbers_that_are_awaited_and_for_no_others(awaited):
    numbers = torch.zeros((62, 8), dtype=torch.int64).pin_memory()
    times = torch.zeros((2, 1), dtype=torch.int64).pin_memory()
    wait, stream = Await(), torch.cuda.current_stream().cuda_stream
    wait(stream, numbers, awaited, 0, *times)
    torch.cuda.synchronize()
    for value in (7, 1 << 40):
        wait(stream, numbers, awaited, value, *times)
        over = torch.cuda.Event()
        over.record()
        for number in range(62):
            if awaited >> number & 1:
                time.sleep(0.02)
                assert not over.query(), f"number {number} has not come to it"
                numbers[number, 0] = value
        torch.cuda.synchronize()
        assert (times[1] - times[0]).item() > 15e6
