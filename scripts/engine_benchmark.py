"""Time a decode step in vLLM: unconstrained, under our masks, and under one of vLLM's own backends, in one engine.

    python scripts/engine_benchmark.py --tokenizer DIR --cases MASKBENCH_DIR --output engine.json
    python scripts/engine_benchmark.py --tokenizer DIR --cases MASKBENCH_DIR --output xgrammar.json --backend xgrammar

A 7B shape (Qwen2.5) with random weights writes 200 tokens a request. "easy" is one schema of free strings and booleans, "hard" one
of bounded strings, numbers and patterns, their tokens sampled; "real" are MaskBench schemas and their instances, replayed by vLLM's
trace replay (V2 runner). For each batch all variants have a warm-up round, then the measured rounds take turns, of eight requests at
least in all; a variant whose warm-up took longer than 6 s has one measured round. Where others share the host, rounds of one variant
differ by a quarter: "median" and "least" are the ratios of each side's median and shortest one.
``--first-tokens N`` first sends single requests under N of the real schemas, each unconstrained, new and once more.
``--quick`` is a small run, of the small real model where no tokenizer is given, to see on a CPU that the program works.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_support import RATIOS, ResultFile, fault_text, measured_rounds, parsed, percentiles, print_table, set_ratios
from engine_rounds import OURS, PROMPT_TOKENS, SAMPLING, UNCONSTRAINED, Bench, Round, is_ours, measures
from engine_workloads import Accepts, Workload, backend_check, easy, hard, real
from first_tokens import WARM_UPS, FirstTokens, first_tokens, print_first_tokens
from llguidance import LLTokenizer
from model_shape import CAPTURED, SHAPE_7B, TINY, model_of

from ananke_server.constraints import Compiler
from ananke_server.engine.start import device_name, on_cpu, start_engine
from ananke_server.heap import settle
from ananke_server.masking.stage_times import STAGE_TIMES_VARIABLE
from ananke_server.masking.tokenizer import model_tokenizer
from ananke_server.settings import Settings

STARTED = time.monotonic()
SLOW_ROUND = 6.0
ROUND_LIMIT = 120.0
# What is left for the results when the deadline comes.
RESERVE = 5.0
REAL_JOBS = 256
# xgrammar may take a second to compile a schema.
SELECTION = 20.0


class Results(ResultFile):
    """The points of workloads, batches and variants."""

    def __init__(self, path: str | None, about: dict[str, Any]) -> None:
        super().__init__(path, about)
        self.points: dict[tuple[str, int, str], dict[str, Any]] = {}
        self.first_tokens: FirstTokens = {}

    def content(self) -> dict[str, Any]:
        points = [{"workload": key[0], "batch": key[1], "variant": key[2], **point} for key, point in self.points.items()]
        return {"first_token_ms": self.first_tokens, "points": points}

    def put(self, workload: str, batch: int, variant: str, point: dict[str, Any]) -> None:
        self.points[workload, batch, variant] = point
        for (kind, size, _), other in self.points.items():
            if (base := self.points.get((kind, size, UNCONSTRAINED))) is not None:
                set_ratios(other, base)
                other["added_us_row"] = round((other["token_ms"] - base["token_ms"]) * 1e3 / size, 2)
        self.flush()

    def print(self) -> None:
        header = ["workload", "batch", "variant", "ms/token", "ratio", "median", "least", "steady ms", "p50 ms", "p99 ms", "first ms"]
        header += ["warm-up first", "added us/row", "mask us", "< 50 us", "wait us/step", "cut short"]
        print_table(header, [[kind, batch, variant, *_cells(point)] for (kind, batch, variant), point in self.points.items()])
        if self.first_tokens:
            print_first_tokens(self.first_tokens)
        self.print_notes()


def _cells(point: dict[str, Any]) -> list[object]:
    mask = point.get("mask")
    return [
        f"{point['token_ms']:.3f}",
        *(f"{point[name]:.3f}" if name in point else "-" for name in RATIOS),
        f"{point['steady_step_ms']:.3f}" if point["steady_step_ms"] else "-",
        *(f"{point['between_tokens_ms'][name]:.2f}" for name in ("p50", "p99")),
        *(f"{point[name]['mean']:.1f}" for name in ("first_token_ms", "first_token_warm_up_ms")),
        f"{point['added_us_row']:.1f}" if "added_us_row" in point else "-",
        *(
            (f"{mask['us_mean']:.1f}", f"{mask['share_under_50_us']:.3f}", f"{mask['wait_us_step']['mean']:.1f}")
            if mask
            else ("-", "-", "-")
        ),
        point["ended_early"],
    ]


def main() -> int:
    arguments = _arguments()
    # The table is printed and the engine ended on a timeout too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if arguments.stages:
        os.environ[STAGE_TIMES_VARIABLE] = "1"
    model = model_of(arguments.tokenizer, tiny=arguments.quick)
    results = Results(arguments.output, _about(arguments))
    try:
        asyncio.run(_run(arguments, model, results))
    finally:
        results.flush()
        results.print()
    return 0 if results.points or results.first_tokens else 1


async def _run(arguments: argparse.Namespace, model: str, results: Results) -> None:
    replays = "real" in arguments.workloads and not on_cpu()
    tokenizer = model_tokenizer(model)
    check = backend_check(arguments.backend, tokenizer, model, SHAPE_7B["vocab_size"], arguments.whitespace)
    # Schemas are compiled in this process while the engine starts in its own. All imports are done: two threads of them would clash.
    preparation = asyncio.get_running_loop().run_in_executor(None, _workloads, arguments, tokenizer, check, results)
    begun = time.perf_counter()
    engine = await start_engine(_settings(arguments, model, trace_replay=replays))
    llm, crew = engine.llm, engine.crew
    results.about |= {"device": device_name(), "start_seconds": round(time.perf_counter() - begun, 1)}
    print(f"the engine started in {results.about['start_seconds']} s", flush=True)
    if replays:
        _let_structured_outputs_replay()
    try:
        workloads = await preparation
        settle()
        bench = Bench(llm, crew, tokens=arguments.tokens, stages=arguments.stages)
        if arguments.first_tokens:
            await _first_tokens(bench, workloads, arguments, results)
        for batch in arguments.batches:
            for workload in workloads:
                if workload.name == "real" and not replays:
                    continue
                if llm.errored:
                    results.note("the engine has died")
                    return
                await _point(bench, workload, batch, arguments, results)
    finally:
        await engine.shutdown()


async def _first_tokens(bench: Bench, workloads: Sequence[Workload], arguments: argparse.Namespace, results: Results) -> None:
    jobs = next((workload.jobs for workload in workloads if workload.name == "real"), [])[: WARM_UPS + arguments.first_tokens]
    backends = [variant for variant in arguments.variants if variant != UNCONSTRAINED]
    results.first_tokens = await first_tokens(bench, jobs, backends, lambda: _left(arguments), results.note)
    measured = results.first_tokens.get(UNCONSTRAINED, {}).get("schemas", 0)
    if measured < arguments.first_tokens:
        results.note(f"first tokens: of {measured} schemas instead of {arguments.first_tokens}")
    results.flush()


async def _point(bench: Bench, workload: Workload, batch: int, arguments: argparse.Namespace, results: Results) -> None:
    """One workload at one batch: warm-ups of all variants, then their measured rounds in turn."""
    warm_ups: dict[str, Round] = {}
    measured: dict[str, list[Round]] = {}
    for number in range(1 + measured_rounds(batch, arguments.rounds)):
        for variant in arguments.variants:
            warm_up = warm_ups.get(variant)
            if number and (warm_up is None or (number > 1 and warm_up.seconds > SLOW_ROUND)):
                continue
            left = _left(arguments)
            if left < (warm_up.seconds if warm_up else 1):
                results.note(f"{workload.name} {batch} {variant}: no time was left for round {number}")
                continue
            try:
                one = await bench.round(variant, workload.jobs, batch, min(left, ROUND_LIMIT))
            except Exception as fault:
                results.note(f"{workload.name} {batch} {variant}, round {number}: {fault_text(fault)}")
                warm_ups.pop(variant, None)
                continue
            if number == 0:
                warm_ups[variant] = one
                continue
            assert warm_up is not None
            measured.setdefault(variant, []).append(one)
            results.put(workload.name, batch, variant, measures(warm_up, measured[variant], arguments.tokens))
    for variant in measured:
        point = results.points[workload.name, batch, variant]
        print(f"{workload.name} {batch} {variant}: {point['token_ms']} ms a token, ratio {point.get('ratio', '-')}", flush=True)


def _left(arguments: argparse.Namespace) -> float:
    return float(arguments.deadline) - (time.monotonic() - STARTED) - RESERVE


def _settings(arguments: argparse.Namespace, model: str, *, trace_replay: bool) -> Settings:
    compact = arguments.whitespace == "compact"
    further: dict[str, Any] = {"structured_outputs_config": {"backend": arguments.backend, "disable_any_whitespace": compact}}
    if trace_replay:
        further["enable_trace_replay"] = True
    if not on_cpu() and not arguments.enforce_eager:
        further["cudagraph_capture_sizes"] = sorted({*CAPTURED, *arguments.batches})
    values: dict[str, Any] = {
        "model": model,
        "dtype": "auto" if on_cpu() else "bfloat16",
        "max_model_len": 1024,
        "max_num_seqs": 256,
        "gpu_memory_utilization": 0.85,
        "enforce_eager": True if arguments.enforce_eager else None,
        "load_format": "auto" if arguments.tokenizer is None else "dummy",
    }
    # Past the validation, which rightly keeps trace replay out of a server.
    return Settings(**values).model_copy(update={"engine_args": further | json.loads(arguments.engine_args)})


def _let_structured_outputs_replay() -> None:
    """Lift vLLM's refusal of traces with structured outputs, in this process.

    It is a rule, and no limit of the mechanism: masks come before sampling, and the trace takes the place of what was sampled.
    """
    from vllm import SamplingParams

    validate = SamplingParams._validate_trace_replay

    def without_structured_outputs(self: Any, *rest: Any) -> None:
        kept, self.structured_outputs = self.structured_outputs, None
        try:
            validate(self, *rest)
        finally:
            self.structured_outputs = kept

    SamplingParams._validate_trace_replay = without_structured_outputs


def _workloads(arguments: argparse.Namespace, tokenizer: LLTokenizer, check: Accepts, results: Results) -> list[Workload]:
    compiler = Compiler(tokenizer)
    one_schema = {"easy": easy, "hard": hard}
    workloads = [make(compiler, arguments.whitespace) for name, make in one_schema.items() if name in arguments.workloads]
    if "real" in arguments.workloads and not arguments.cases:
        results.note("real: left out, no --cases were given")
    elif "real" in arguments.workloads:
        count = min(REAL_JOBS, max(*arguments.batches, WARM_UPS + arguments.first_tokens))
        cases, whitespace = Path(arguments.cases), arguments.whitespace
        replayed = real(compiler, tokenizer, cases, check, whitespace, tokens=arguments.tokens, count=count, seconds=SELECTION)
        if replayed.jobs:
            workloads.append(replayed)
        if not replayed.jobs or on_cpu():
            results.note(f"real: not replayed with {len(replayed.jobs)} schemas; trace replay needs vLLM's V2 runner, on a GPU")
    for workload in workloads:
        compile_ms = percentiles(workload.compile_ms)
        results.about["workloads"] |= {workload.name: {"schemas": len(workload.jobs), "compile_ms": compile_ms}}
    return workloads


def _about(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "backend": arguments.backend,
        "model": "small real model" if arguments.tokenizer is None else SHAPE_7B | TINY if arguments.quick else SHAPE_7B,
        "tokens": arguments.tokens,
        "prompt_tokens": PROMPT_TOKENS,
        "sampling": SAMPLING | {"seed": "the request's number in its batch"},
        "whitespace": arguments.whitespace,
        "stage_times": arguments.stages,
        "engine_args": json.loads(arguments.engine_args),
        "enforce_eager": arguments.enforce_eager,
        "workloads": {},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="a folder with tokenizer.json and tokenizer_config.json of up to 152,064 tokens")
    parser.add_argument("--cases", help="a folder of MaskBench cases, for 'real'")
    parser.add_argument("--backend", choices=["guidance", "xgrammar"], default="guidance", help="vLLM's backend; an engine has one")
    parser.add_argument(
        "--variants",
        nargs="+",
        help="of unconstrained, ours, ours/N (by N mask processes) and the backend (default: all but ours/N, ours beside guidance alone)",
    )
    parser.add_argument("--workloads", nargs="+", choices=["easy", "hard", "real"], default=["easy", "hard", "real"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 128, 256])
    parser.add_argument("--rounds", type=int, default=2, help="measured rounds of each variant, more where a batch is small")
    parser.add_argument("--tokens", type=int, default=200, help="tokens a request")
    parser.add_argument("--first-tokens", type=int, default=0, help="real schemas for single requests before all else")
    parser.add_argument("--whitespace", choices=["compact", "flexible"], default="compact", help="between JSON's tokens, for every variant")
    parser.add_argument("--stages", action="store_true", help="time the stages of our masks, which costs some 15 us a step")
    parser.add_argument("--enforce-eager", action="store_true", help="start without compilation and CUDA graphs")
    parser.add_argument("--engine-args", default="{}", help="further engine arguments of vLLM, as a JSON object")
    parser.add_argument("--deadline", type=float, default=480, help="seconds after the start of the program in which all has to be done")
    parser.add_argument("--quick", action="store_true", help="batches 1 and 4, 20 tokens, a tiny shape or the small real model")
    parser.add_argument("--output", help="a JSON file, written after every point")
    arguments = parsed(parser)
    if arguments.quick:
        arguments.batches, arguments.tokens = [1, 4], 20
    if arguments.variants is None:
        ours = [OURS] if arguments.backend == "guidance" else []
        arguments.variants = [UNCONSTRAINED, *ours, arguments.backend]
    for variant in arguments.variants:
        if variant not in (UNCONSTRAINED, arguments.backend) and not is_ours(variant):
            parser.error(f"--variants: {variant} is none of unconstrained, ours, ours/N and {arguments.backend}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
