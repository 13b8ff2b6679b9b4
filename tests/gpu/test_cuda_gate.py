"""Real mask processes behind the GPU's gate: a decoder that never waits for the GPU samples what the grammars allow, and nothing else."""

import asyncio
import random
import time

import numpy as np
import pytest
from llguidance import LLMatcher
from small_tokenizer import small_source, small_tokenizer

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

from ananke_server.masking.board import open_board  # noqa: E402
from ananke_server.masking.crew import MaskCrew  # noqa: E402
from ananke_server.masking.cuda_gate import CudaGate  # noqa: E402
from ananke_server.masking.placements import Placements  # noqa: E402
from ananke_server.masking.tickets import Failure, Ticket  # noqa: E402

TOKENIZER = small_tokenizer()
GRAMMARS = [
    'start: "ab" /[a-c]{2,30}/ "x"',
    LLMatcher.grammar_from_json_schema({"type": "array", "items": {"type": "boolean"}}),
    LLMatcher.grammar_from_regex("(ab|12){1,20}"),
    'start: "(" start ")" | "a"',
]
SLOTS = 48
PROCESSES = 3
STEPS = 60
VOCAB = 320


def test_a_decoder_behind_the_gate_samples_what_the_grammars_allow():
    asyncio.run(decode())


async def decode():
    crew = MaskCrew.start(small_source(), TOKENIZER, rows=SLOTS, processes=PROCESSES, lexer_states=10_000)
    try:
        await crew.wait_until_up()
        board, bell = open_board(crew.address)
        lengths = torch.full((SLOTS,), 5, dtype=torch.int32, device="cuda")
        tokens = torch.zeros((SLOTS, 5 + STEPS), dtype=torch.int32, device="cuda")
        placements, gate = Placements(board, bell), CudaGate(board, lengths, tokens, VOCAB)
        chooser = random.Random(1)
        # Every fourth slot is unconstrained.
        grammars = [None if slot % 4 == 3 else GRAMMARS[slot % len(GRAMMARS) - 1] for slot in range(SLOTS)]
        for slot, grammar in enumerate(grammars):
            if grammar is not None:
                ticket = Ticket(slot, slot % PROCESSES)
                assert await crew.prepare(ticket, grammar) == (Failure.NONE, "")
                placements.place(slot, ticket, prompt=5)
        slots = list(range(SLOTS))
        work = torch.randn((2048, 2048), device="cuda")
        over = [torch.cuda.Event() for _ in range(STEPS + 1)]
        for step in range(1, STEPS + 1):
            gate.send(step, lengths, tokens)
            for _ in range(5):
                work = torch.tanh(work @ work)
            if step % 3:
                chooser.shuffle(slots)
            order = torch.tensor(slots).pin_memory().to("cuda", non_blocking=True)
            logits = torch.randn((SLOTS, VOCAB), device="cuda")
            # As in vLLM, the step before may still be under way, the one before that is over.
            over[max(0, step - 2)].synchronize()
            gate.apply(step, placements.ask(step, np.array(slots)), logits)
            tokens[order, lengths[order].long()] = logits.argmax(dim=1).int()
            lengths += 1
            over[step].record()
        torch.cuda.synchronize()
        outputs = tokens[:, 5:].tolist()
        outcomes = [await crew.release(Ticket(slot, slot % PROCESSES)) if grammars[slot] else None for slot in range(SLOTS)]
    finally:
        crew.close()
    for grammar, output, outcome in zip(grammars, outputs, outcomes, strict=True):
        if grammar is None:
            assert len(set(output)) > 20
            continue
        assert outcome.failure is Failure.NONE
        assert outcome.steps == STEPS
        assert outcome.wait_us_max > 0
        matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
        for token in output:
            mask = int.from_bytes(matcher.compute_bitmask(), "little")
            assert mask >> token & 1
            assert matcher.consume_token(token)


def test_mask_processes_that_die_do_not_hang_the_gpu():
    asyncio.run(die())


async def die():
    crew = MaskCrew.start(small_source(), TOKENIZER, rows=4, processes=2, lexer_states=10_000)
    try:
        await crew.wait_until_up()
        board, bell = open_board(crew.address)
        lengths = torch.zeros(4, dtype=torch.int32, device="cuda")
        placements, gate = Placements(board, bell), CudaGate(board, lengths, lengths[:, None], VOCAB)
        for owner in range(2):
            await crew.prepare(Ticket(owner, owner), GRAMMARS[0])
            placements.place(owner, Ticket(owner, owner))
        crew._process.kill()
        crew._process.wait()
        logits = torch.zeros((2, VOCAB), device="cuda")
        # Nothing is sent, so nobody would ever be done.
        gate.apply(1, placements.ask(1, np.arange(2)), logits)
        deadline = time.monotonic() + 10
        done = torch.cuda.Event()
        done.record()
        while not (crew.is_dead and done.query()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert (board.done[:, 0] > 1 << 60).all()
        allowed = (logits[0] > float("-inf")).nonzero().flatten().tolist()
        assert allowed == TOKENIZER.eos_tokens
    finally:
        crew.close()
