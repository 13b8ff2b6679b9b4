"""Mask times over MaskBench on one core: ours beside plain llguidance, valid instances replayed token by token.

    python scripts/mask_times.py CASES_DIR --tokenizer DIR --json mask-times.json

Ours are the times of the first request under a schema, and of a later one, which finds what the first one's masks have taught the
lexer. Plain is llguidance with its own slices and its own JSON grammars, compiled for each request. The sides take turns at each case,
with nothing kept from one repeat to the next, and of every mask the shortest time counts: once on the clock, once of the thread's own
time on a core, which other work cannot lengthen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bench_support import print_table, write_json
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from ananke_server.constraints import Compiler
from ananke_server.launch import DEFAULT_MODEL
from ananke_server.masking.matchers import MatcherPool
from ananke_server.masking.program_matcher import ProgramMatcher
from ananke_server.masking.tokenizer import TokenizerSource, mask_words, tokenizer_source

Matcher = LLMatcher | ProgramMatcher
QUANTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
UNDER_US = 50.0


@dataclass(slots=True)
class Times:
    """Nanoseconds of each mask of a case, by instance: on the clock, and of the thread's own time."""

    wall: list[list[int]] = field(default_factory=list)
    thread: list[list[int]] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    """Whether the masks admit the instance to its end."""


@dataclass(slots=True)
class Side:
    """A way of compiling schemas, and the times of the cases that it takes."""

    name: str
    tokenizer: LLTokenizer
    program: Callable[[Any], str | None]
    make: Callable[[str], Matcher]
    """A matcher for a program; what it is given once per case and repeat."""
    again: bool = False
    """Whether the instances are replayed once before they are timed."""
    cases: dict[str, list[Times]] = field(default_factory=dict)


def main() -> int:
    arguments = _arguments()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sides = _sides(tokenizer_source(arguments.tokenizer or str(DEFAULT_MODEL)), arguments.whitespace)
    separators = (",", ":") if arguments.whitespace == "compact" else (", ", ": ")
    begun = time.monotonic()
    paths = sorted(Path(arguments.cases).glob("*.json"))[:: arguments.every]
    for path in paths:
        if time.monotonic() - begun > arguments.deadline:
            print(f"cut at {path.name}: the deadline has come")
            break
        case = json.loads(path.read_text(encoding="utf-8"))
        texts = [json.dumps(test["data"], ensure_ascii=False, separators=separators) for test in case.get("tests", []) if test["valid"]]
        _take_turns(sides, path.stem, case["schema"], texts, arguments.repeats)
    summaries = {side.name: _summary(side, sides) for side in sides}
    _print(summaries, arguments)
    if arguments.json:
        write_json(
            arguments.json, {"whitespace": arguments.whitespace, "repeats": arguments.repeats, "cases": len(paths), "sides": summaries}
        )
    return 0


def _sides(source: TokenizerSource, whitespace: str) -> list[Side]:
    own = source.load()
    plain = LLTokenizer(source.text, eos_token=list(source.ends))
    compiler = Compiler(own)

    def our_program(schema: Any) -> str | None:
        return compiler.compile(
            json.dumps({"type": "json_schema", "schema": schema, "whitespace": whitespace, "unsupported": "verify"})
        ).grammar

    def plain_program(schema: Any) -> str | None:
        overrides: Any = {"whitespace_flexible": whitespace == "flexible"}
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=overrides)
        except ValueError:
            return None
        return None if LLMatcher(plain, grammar, log_level=0).is_error() else grammar

    def ours(program: str) -> Matcher:
        return ProgramMatcher.of(MatcherPool(own), program)

    return [
        Side("ours, first request", own, our_program, ours),
        Side("ours, later request", own, our_program, ours, again=True),
        Side("plain llguidance", plain, plain_program, lambda program: LLMatcher(plain, program, log_level=0)),
    ]


def _take_turns(sides: Sequence[Side], name: str, schema: Any, texts: Sequence[str], repeats: int) -> None:
    programs = [(side, side.program(schema)) for side in sides]
    for _ in range(repeats):
        for side, program in programs:
            if program is not None:
                side.cases.setdefault(name, []).append(_replayed(side, program, texts))


def _replayed(side: Side, program: str, texts: Sequence[str]) -> Times:
    matcher = side.make(program)
    if side.again:
        _replay(side, matcher, program, texts)
        if isinstance(matcher, ProgramMatcher):
            # What a request gets: another copy of the same pool's.
            matcher = ProgramMatcher.of(matcher.pool, program)
    return _replay(side, matcher, program, texts)


def _replay(side: Side, matcher: Matcher, program: str, texts: Sequence[str]) -> Times:
    bitmask = np.zeros(mask_words(side.tokenizer), dtype=np.int32)
    times = Times()
    for text in texts:
        wall: list[int] = []
        thread: list[int] = []
        whole = True
        for token in side.tokenizer.tokenize_str(text):
            fill = _filler(matcher, bitmask)
            begun, begun_thread = time.perf_counter_ns(), time.thread_time_ns()
            fill()
            ended_thread, ended = time.thread_time_ns(), time.perf_counter_ns()
            wall.append(ended - begun)
            thread.append(ended_thread - begun_thread)
            if not bitmask[token // 32] >> (token % 32) & 1 or not matcher.consume_tokens([token]):
                whole = False
                break
        times.wall.append(wall)
        times.thread.append(thread)
        times.whole.append(whole)
        if isinstance(matcher, ProgramMatcher):
            matcher.rewind()
        elif not matcher.reset():
            matcher = side.make(program)
    return times


def _filler(matcher: Matcher, bitmask: NDArray[np.int32]) -> Callable[[], object]:
    """What fills the bitmask, as the server does."""
    address = bitmask.ctypes.data
    if isinstance(matcher, ProgramMatcher):
        return lambda: matcher.fill(address, len(bitmask))
    return lambda: matcher.unsafe_compute_mask_ptr(address, bitmask.nbytes)


def _summary(side: Side, sides: Sequence[Side]) -> dict[str, Any]:
    """Over all that the side takes, and over the instances that every side admits to their end."""
    common = {
        (name, index)
        for name in set.intersection(*(set(other.cases) for other in sides))
        for index in range(len(side.cases[name][0].whole))
        if all(other.cases[name][0].whole[index] for other in sides)
    }
    everything = {(name, index) for name, repeats in side.cases.items() for index in range(len(repeats[0].whole))}
    summary: dict[str, Any] = {"schemas": len(side.cases), "instances": len(everything), "common_instances": len(common)}
    for scope, keys in (("all", everything), ("common", common)):
        for clock in ("wall", "thread"):
            summary[f"{scope}_{clock}_us"] = _distribution(_best(side, sorted(keys), clock))
    return summary


def _best(side: Side, keys: Sequence[tuple[str, int]], clock: str) -> NDArray[np.float64]:
    """The shortest time of each mask over the repeats, in microseconds."""
    best = [np.min([getattr(times, clock)[index] for times in side.cases[name]], axis=0) for name, index in keys]
    return np.concatenate(best) / 1e3 if best else np.zeros(0)


def _distribution(times: NDArray[np.float64]) -> dict[str, float]:
    if not len(times):
        return {}
    values = {"masks": float(len(times)), "mean": float(times.mean())}
    values |= {name: float(np.percentile(times, quantile)) for name, quantile in QUANTILES.items()}
    return {name: round(value, 3) for name, value in (values | {"share_under_50_us": float((times < UNDER_US).mean())}).items()}


def _print(summaries: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> None:
    print(f"one core, best of {arguments.repeats} repeats, {arguments.whitespace} whitespace; microseconds")
    rows = []
    for scope in ("common_thread_us", "common_wall_us", "all_thread_us", "all_wall_us"):
        for name, summary in summaries.items():
            if summary[scope]:
                values = dict(summary[scope])
                rows.append([scope, name, summary["schemas"], int(values.pop("masks")), *values.values()])
    print_table(["", "side", "schemas", "masks", "mean", *QUANTILES, "share < 50 us"], rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", help="a folder of MaskBench cases")
    parser.add_argument("--tokenizer", help="a folder or a hub's name (default: the small model's)")
    parser.add_argument("--whitespace", choices=["flexible", "compact"], default="flexible")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="take every n-th case alone")
    parser.add_argument("--deadline", type=float, default=600, help="seconds after which no further case is begun")
    parser.add_argument("--json", help="a file for the results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
