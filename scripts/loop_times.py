"""Time what a token costs the event loop that answers all streams: vLLM called directly, and our guided engine, streaming and at once.

    python scripts/loop_times.py --json benchmarks/loop-times.json

A tiny shape with random weights writes 60 tokens for each of 64 requests that come together; the sides take turns. What counts is
the processor time of the loop's thread, from the requests to their ends: reading and checking a request is in it, and so is attesting
its output. Where the engine is faster than the loop, all streams wait for the loop.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench_support import percentiles, print_table, write_json
from model_shape import write_shape
from stream_clients import Stream
from stream_workloads import KINDS, Kind, Prompts, Request

from ananke_server.launch import DEFAULT_MODEL

MAX_MODEL_LEN = 512
Run = Callable[[Sequence[Request]], Awaitable[list[Stream]]]
Times = dict[tuple[Kind, str], list[float]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="a folder with tokenizer.json and tokenizer_config.json (default: the small model's)")
    parser.add_argument("--streams", type=int, default=64, help="requests that come together")
    parser.add_argument("--tokens", type=int, default=60, help="tokens a request")
    parser.add_argument("--rounds", type=int, default=4, help="measured rounds of each side")
    parser.add_argument("--json", help="a file for the results")
    arguments = parser.parse_args()
    model = write_shape(Path(arguments.tokenizer or DEFAULT_MODEL), tiny=True)
    os.environ |= {
        "ANANKE_MODEL": model,
        "ANANKE_LOAD_FORMAT": "dummy",
        "ANANKE_ENFORCE_EAGER": "true",
        "ANANKE_MAX_MODEL_LEN": str(MAX_MODEL_LEN),
        "ANANKE_MAX_NUM_SEQS": str(max(arguments.streams, 4)),
        "VLLM_CPU_KVCACHE_SPACE": "2",
    }
    times = asyncio.run(_measured(arguments, Prompts(model)))
    points = [{"kind": kind, "side": side, "loop_us_token": percentiles(rounds)} for (kind, side), rounds in times.items()]
    print_table(["requests", "side", "loop us/token", "of vLLM's stream"], [_row(point, points) for point in points])
    if arguments.json:
        about = {"streams": arguments.streams, "tokens": arguments.tokens, "rounds": arguments.rounds}
        write_json(arguments.json, about | {"points": points})
    return 0


async def _measured(arguments: argparse.Namespace, prompts: Prompts) -> Times:
    """Microseconds a token of each round after the first, which warms up."""
    from stream_direct import Direct

    direct = await Direct.start()
    sides: dict[str, Run] = {
        "vLLM, streaming": direct.engine,
        "guided, streaming": direct.guided,
        "vLLM, at once": partial(direct.engine, stream=False),
        "guided, at once": partial(direct.guided, stream=False),
    }
    times: Times = {(kind, side): [] for kind in KINDS for side in sides}
    try:
        for number in range(1 + arguments.rounds):
            for kind in KINDS:
                requests = prompts.requests(kind, arguments.streams, number, arguments.tokens)
                for side, run in sides.items():
                    begun = time.thread_time()
                    done = await run(requests)
                    spent = time.thread_time() - begun
                    if number:
                        times[kind, side].append(1e6 * spent / sum(stream.tokens for stream in done))
    finally:
        await direct.close()
    return times


def _row(point: dict[str, Any], points: Sequence[dict[str, Any]]) -> list[object]:
    base = next(one for one in points if one["kind"] == point["kind"])["loop_us_token"]["mean"]
    mean = point["loop_us_token"]["mean"]
    return [point["kind"], point["side"], f"{mean:.1f}", f"{mean / base:.2f}"]


if __name__ == "__main__":
    sys.exit(main())
