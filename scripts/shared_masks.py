"""Masks of the hard schema with and without those kept for requests in the same state, on one core.

    python scripts/shared_masks.py --tokenizer DIR --json benchmarks/shared-masks.json

Requests come one after the other, each with a text of its own: every token is drawn from its mask. The first half of them warms up, and
the other half is measured, by the thread's own time, with what following a text costs. All masks are the same on both sides, which
the program checks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from typing import Any

import numpy as np
from bench_support import percentiles, print_table, tokenizer_of, write_json
from engine_workloads import hard_schema
from llguidance import LLTokenizer

from ananke_server.constraints import Compiler
from ananke_server.heap import settle
from ananke_server.masking.mask_store import MaskStore
from ananke_server.masking.matchers import MatcherPool
from ananke_server.masking.program_matcher import ProgramMatcher
from ananke_server.masking.tokenizer import mask_words

TOKENS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="a folder, a hub's name, or 'byte' (default: the small model's)")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--json", help="a file for the results")
    arguments = parser.parse_args()

    tokenizer = tokenizer_of(arguments.tokenizer)
    constraint = json.dumps({"type": "json_schema", "schema": hard_schema(), "whitespace": "compact"})
    program = Compiler(tokenizer).compile(constraint).grammar
    assert program is not None
    settle()
    results = {name: measured(tokenizer, program, arguments.requests, keeps=name == "kept") for name in ("computed", "kept")}
    if results["computed"].pop("masks_sha256") != results["kept"].pop("masks_sha256"):
        raise SystemExit("a mask that was kept differs")
    rows = [[name, *_cells(result["mask_us"]), *_cells(result["token_us"]), result["found"]] for name, result in results.items()]
    print_table(["masks", "mask us: mean", "p50", "p99", "max", "token us: mean", "p50", "p99", "max", "found"], rows)
    if arguments.json:
        about = {"vocabulary": tokenizer.vocab_size, "requests": arguments.requests, "tokens": TOKENS}
        write_json(arguments.json, about | {"results": results})


def measured(tokenizer: LLTokenizer, program: str, requests: int, *, keeps: bool) -> dict[str, Any]:
    """The microseconds of the second half of the requests, and a digest of all masks."""
    mask = np.zeros(mask_words(tokenizer), dtype=np.int32)
    store = MaskStore(len(mask)) if keeps else None
    pool, draw, digest = MatcherPool(tokenizer, masks=store), np.random.default_rng(0), hashlib.sha256()
    masks: list[int] = []
    tokens: list[int] = []
    for _ in range(requests):
        matcher = ProgramMatcher.of(pool, program, of_schema=True)
        for _ in range(TOKENS):
            begun = time.thread_time_ns()
            matcher.fill(mask.ctypes.data, len(mask))
            masks.append(time.thread_time_ns() - begun)
            digest.update(mask.tobytes())
            token = int(draw.choice(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))))
            begun = time.thread_time_ns()
            matcher.consume_tokens((token,))
            tokens.append(time.thread_time_ns() - begun)
    half = len(masks) // 2
    return {
        "mask_us": percentiles(masks[half:], scale=1e-3),
        "token_us": percentiles(tokens[half:], scale=1e-3),
        "found": 0 if store is None else store.found,
        "masks_sha256": digest.hexdigest(),
    }


def _cells(figures: dict[str, float]) -> list[object]:
    return [figures[name] for name in ("mean", "p50", "p99", "max")]


if __name__ == "__main__":
    main()
