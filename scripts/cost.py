"""Cost of output tokens, from the measured times of a token and a price of the GPU's hour, which the reader gives.

A million tokens cost PRICE / 3600 x (milliseconds a token / 1000) / (requests in the batch) x 1,000,000: what a GPU costs that
is kept at this batch all the time. Prompts are not in it, and neither is a GPU that waits.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ananke_server.launch import PROJECT

RESULTS = [PROJECT / "benchmarks" / f"h200-{name}.json" for name in ("engine-launches", "engine-kernel", "mask-processes")]


def main() -> int:
    arguments = _parse()
    results = [json.loads(path.read_text()) for path in arguments.results]
    dates = sorted(result["date"][:10] for result in results)
    days = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    print(f"{results[0]['device']}, {days}, at {arguments.gpu_hour:.2f} an hour; a million output tokens, by batch:")
    print(f"{'schemas':8} {'batch':>5} {'tokens/s':>9} {'unconstrained':>14} {'constrained':>12} {'of that for masks':>18}")
    for (workload, batch), (plain, ours) in sorted(times_of(results).items()):
        free, paid = (million_tokens(arguments.gpu_hour, milliseconds, batch) for milliseconds in (plain, ours))
        print(f"{workload:8} {batch:5} {batch / ours * 1e3:9,.0f} {free:14.3f} {paid:12.3f} {1 - plain / ours:18.1%}")
    return 0


def times_of(results: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], tuple[float, float]]:
    """Milliseconds a token, unconstrained and under our masks, by workload and batch; both of the last result that has both."""
    times: dict[tuple[str, int], tuple[float, float]] = {}
    for result in results:
        here = {(point["workload"], point["batch"], point["variant"]): point["token_ms"] for point in result["points"]}
        for workload, batch, _ in here:
            plain, ours = (here.get((workload, batch, variant)) for variant in ("unconstrained", "ours"))
            if plain and ours:
                times[workload, batch] = plain, ours
    return times


def million_tokens(gpu_hour: float, token_ms: float, batch: int) -> float:
    """What a million output tokens cost, in the currency of ``gpu_hour``, where each of ``batch`` requests gets one in ``token_ms``."""
    return gpu_hour / 3600 * (token_ms / 1000) / batch * 1e6


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gpu-hour", type=_price, required=True, metavar="PRICE", help="what an hour of the GPU costs, in any currency")
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=RESULTS,
        help="what engine_benchmark.py wrote; of a point that several files have the last one's counts (default: the newest here)",
    )
    return parser.parse_args()


def _price(text: str) -> float:
    price = float(text)
    if not 0 <= price < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no price")
    return price


if __name__ == "__main__":
    sys.exit(main())
