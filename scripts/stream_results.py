"""Results of the benchmark through Triton: which streams count, what is made of them, and the points measured so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import stream_perf
from bench_support import RATIOS, ResultFile, mask_counts, percentiles, print_table, set_ratios, token_ms
from stream_clients import Stream
from stream_workloads import HARD_BEGINNING, Kind


class Results(ResultFile):
    """The points of sides, kinds and numbers of streams."""

    def __init__(self, path: str | None, about: dict[str, Any]) -> None:
        super().__init__(path, about)
        self.points: list[dict[str, Any]] = []
        self.stall: dict[str, Any] = {}

    def content(self) -> dict[str, Any]:
        return {"points": self.points, "stall": self.stall}

    def put(self, side: str, kind: Kind, streams: int, point: dict[str, Any]) -> None:
        self.points.append({"side": side, "kind": kind, "streams": streams} | point)
        base = {(one["kind"], one["streams"]): one for one in self.points if one["side"] == "engine"}
        for one in self.points:
            if direct := base.get((one["kind"], one["streams"])):
                set_ratios(one, direct)
        print(f"{side} {kind} {streams}: {point['token_ms']} ms a token, first after {point['first_token_ms']['mean']} ms", flush=True)
        self.flush()

    def print(self) -> None:
        header = ["side", "kind", "streams", "ms/token", "ratio", "median", "least", "p50 ms", "p99 ms", "first ms", "first p99"]
        header += ["warm-up first", "last ms", "tokens/message", "ms/message", "mask wait us", "cut short"]
        print_table(header, [_row(point) for point in self.points])
        if self.stall:
            for name in ("between_tokens_ms", "between_tokens_with_intruders_ms"):
                print(f"stall: {name} {self.stall[name]}")
        self.print_notes()


def _row(point: dict[str, Any]) -> list[object]:
    return [
        *(point[name] for name in ("side", "kind", "streams")),
        f"{point['token_ms']:.3f}",
        *(f"{point[name]:.3f}" if name in point else "-" for name in RATIOS),
        *(f"{point['between_tokens_ms'][name]:.2f}" for name in ("p50", "p99")),
        *(f"{point['first_token_ms'][name]:.1f}" for name in ("mean", "p99")),
        f"{point['first_token_warm_up_ms']['mean']:.1f}" if "first_token_warm_up_ms" in point else "-",
        f"{point['last_token_ms']['mean']:.1f}",
        f"{point['tokens_a_message']:.2f}",
        f"{point['between_messages_ms']['mean']:.2f}",
        f"{point['mask']['wait_us_step']['mean']:.1f}" if "mask" in point else "-",
        point["ended_early"],
    ]


def stream_fault(stream: Stream, kind: Kind) -> str | None:
    """Why a stream does not count: its error, too few tokens, or an output that ignores its constraint; None where it counts."""
    if stream.error is not None or len(stream.stamps) < 2:
        return stream.error or f"{stream.tokens} tokens"
    if kind == "hard" and stream.text and not stream.text.startswith(HARD_BEGINNING):
        return f"the constraint was not enforced: {stream.text[:60]!r}"
    return None


def measures(warm_up: Sequence[Stream], rounds: Sequence[Sequence[Stream]], tokens: int) -> dict[str, Any]:
    """The measured streams of each round as numbers, in milliseconds unless said otherwise."""
    streams = [one for streams_ in rounds for one in streams_]
    point: dict[str, Any] = {
        "rounds": len(rounds),
        "requests": len(streams),
        "token_ms": token_ms(streams),
        "round_token_ms": [token_ms(streams_) for streams_ in rounds],
        "between_tokens_ms": percentiles([gap for one in streams for _, gap in one.gaps()], scale=1e3),
        "between_messages_ms": stream_perf.by_messages(streams),
        "tokens_a_message": round(sum(one.tokens for one in streams) / sum(len(one.stamps) for one in streams), 3),
        "first_token_ms": percentiles([one.first_token for one in streams], scale=1e3),
        "last_token_ms": percentiles([one.stamps[-1][0] - one.begun for one in streams], scale=1e3),
        "ended_early": sum(one.tokens < tokens for one in streams),
    }
    if counts := mask_counts(streams):
        point["mask"] = counts
    if warm_up:
        point["first_token_warm_up_ms"] = percentiles([one.first_token for one in warm_up], scale=1e3)
    return point
