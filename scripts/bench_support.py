"""What the benchmark programs share: tokenizers, times of tokens, percentiles, tables, and results with their command, date and machine."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from llguidance import LLTokenizer

from ananke_server.launch import DEFAULT_MODEL
from ananke_server.masking.tickets import Outcome
from ananke_server.masking.tokenizer import model_tokenizer

_LEAST_REQUESTS: Final = 8


def tokenizer_of(name: str | None) -> LLTokenizer:
    """``byte`` is one token a byte; otherwise a folder or a hub's name; None is the small model that ``make setup`` makes."""
    return LLTokenizer("byte") if name == "byte" else model_tokenizer(name or str(DEFAULT_MODEL))


def measured_rounds(batch: int, least: int = 2) -> int:
    """Rounds of a batch: at least so many, and as many as make eight requests, since single ones differ."""
    return max(least, -(-_LEAST_REQUESTS // batch))


def percentiles(values: Sequence[float], *, scale: float = 1.0) -> dict[str, float]:
    """Mean, median, 99th percentile and maximum, times ``scale``; empty without values."""
    if not values:
        return {}
    scaled = np.asarray(values) * scale
    p50, p99 = np.percentile(scaled, [50, 99])
    return {name: round(float(value), 3) for name, value in (("mean", scaled.mean()), ("p50", p50), ("p99", p99), ("max", scaled.max()))}


@dataclass(slots=True)
class TokenTimes:
    """The tokens of one request as they came: when, in seconds of one clock, and how many at once."""

    begun: float
    stamps: list[tuple[float, int]] = field(default_factory=list)
    outcome: Outcome | None = None
    """What was counted of its masks, where that is told."""

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self.stamps)

    @property
    def first_token(self) -> float:
        """Seconds to the first message that carried a token."""
        return self.stamps[0][0] - self.begun

    @property
    def token_time(self) -> float:
        """(last - first) / (tokens that came after the first message)."""
        return (self.stamps[-1][0] - self.stamps[0][0]) / (self.tokens - self.stamps[0][1])

    def gaps(self) -> list[tuple[float, float]]:
        """The time of each token after the first message, and the time before it: that of tokens that came at once is shared evenly."""
        pairs = zip(self.stamps, self.stamps[1:], strict=False)
        return [(now, (now - before) / count) for (before, _), (now, count) in pairs for _ in range(count)]


def token_ms(streams: Sequence[TokenTimes]) -> float:
    """The mean time a token of requests, in milliseconds."""
    return round(1e3 * sum(stream.token_time for stream in streams) / len(streams), 4)


def outcome_of(metrics: Mapping[str, Any]) -> Outcome | None:
    """What a response's metrics tell of its masks."""
    return Outcome(**mask) if (mask := metrics.get("mask")) else None


def mask_counts(streams: Sequence[TokenTimes]) -> dict[str, Any]:
    """What was counted of requests' masks, together; the time for a mask is a mean of masks, the wait for them one of requests.

    Empty where nothing is told of any.
    """
    outcomes = [stream.outcome for stream in streams if stream.outcome is not None]
    if not outcomes:
        return {}
    masks = sum(outcome.steps for outcome in outcomes)
    return {
        "masks": masks,
        "us_mean": round(sum(outcome.us_mean * outcome.steps for outcome in outcomes) / masks, 1),
        "us_p99_of_a_request": percentiles([outcome.us_p99 for outcome in outcomes]),
        "share_under_50_us": round(sum(outcome.under_50_us for outcome in outcomes) / masks, 4),
        "wait_us_step": percentiles([outcome.wait_us_mean for outcome in outcomes]),
        "longest_wait_us": max(outcome.wait_us_max for outcome in outcomes),
    }


RATIOS: Final = ("ratio", "median_ratio", "least_ratio")


def set_ratios(point: dict[str, Any], base: Mapping[str, Any]) -> None:
    """Hold a point's time a token against another's: the mean of its rounds, the median one and the shortest."""
    point["ratio"] = round(point["token_ms"] / base["token_ms"], 4)
    for name, of in (("median_ratio", statistics.median), ("least_ratio", min)):
        point[name] = round(of(point["round_token_ms"]) / of(base["round_token_ms"]), 4)


class ResultFile:
    """What a benchmark has measured so far, on disk after each point, with notes of what it could not."""

    def __init__(self, path: str | None, about: dict[str, Any]) -> None:
        self._path = path
        self.about = about
        self.notes: list[str] = []

    def content(self) -> dict[str, Any]:
        """What is written between ``about`` and the notes."""
        raise NotImplementedError

    def note(self, text: str) -> None:
        print(text, flush=True)
        self.notes.append(text)
        self.flush()

    def flush(self) -> None:
        if self._path:
            write_json(self._path, self.about | self.content() | {"notes": self.notes})

    def print_notes(self) -> None:
        for text in self.notes:
            print(f"note: {text}")


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments of a benchmark; ends the program where there is neither ``--tokenizer`` nor ``--quick``."""
    arguments = parser.parse_args()
    if arguments.tokenizer is None and not arguments.quick:
        parser.error("--tokenizer is needed, but for --quick")
    return arguments


def fault_text(fault: Exception, most: int = 300) -> str:
    """A fault's kind and the beginning of its words; of a group the first one's."""
    cause = fault.exceptions[0] if isinstance(fault, ExceptionGroup) else fault
    return f"{type(cause).__name__}: {str(cause)[:most]}"


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell: the first to the left, the others to the right."""
    cells = [[_cell(value) for value in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        print("  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def provenance() -> dict[str, Any]:
    """What a result came from."""
    return {
        "command": "python " + " ".join(sys.argv),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write a result, its provenance first."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(provenance() | content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()
