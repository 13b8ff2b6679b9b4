"""Time a token and to the first token through Triton, beside the engine called directly and Triton's own vLLM backend.

    python scripts/triton_benchmark.py --tokenizer DIR --vllm-backend DIR --output triton.json
    python scripts/triton_benchmark.py --quick --vllm-backend DIR --stall

Sides, each with an engine of its own, one after the other on one GPU:
  engine        vLLM's AsyncLLM in this process, constrained requests under our guides
  guided        our GuidedEngine.generate in this process, on the same engine: what the Triton model calls
  generate      our ensemble in Triton, gRPC streaming
  vllm_backend  model.py of Triton's vLLM backend in the same Triton, constrained by vLLM's guidance
A batch of requests is sent at once, by client processes where it goes through Triton; a warm-up, then ``--rounds`` measured ones, or as
many as make eight requests. Rounds of engine and guided take turns; with ``--together`` those of engine and generate do, two engines on
one GPU of which one waits. Where others share the host rounds of one side differ by a quarter: "median" and "least" are the ratios of
each side's median round and of its shortest one, and ``round_token_ms`` has them all.
Time a token is (last - first) / (tokens - 1), in tokens and not in messages; a token without text of its own, such as half a
character, comes to a client of ours with the next text, and to one of the vLLM backend at once. Where tokens come late and in
bursts their time is flattered; ``last ms``, from the request to its last token, is not. Direct rows make text of tokens too.
``warm-up first`` is the first token in the warm-up, when a constraint may still have to be compiled. ``perf`` rows are
perf_analyzer's streams, where it runs: it sends a new request when one ends, so its batches are mixed with prefills; its own
measure, the time between messages, stands beside ours, which is made of the tokens that its export says for each message.
``--stall`` has slow and new constraints come in the middle of a 64-request run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import stream_perf
import stream_stall
from bench_server import CoreShares, add_server_cores, on_cores, serving
from bench_support import fault_text, measured_rounds, parsed
from model_shape import CAPTURED, SHAPE_7B, model_of
from stream_clients import Clients, Order, Stream, clients
from stream_results import Results, measures, stream_fault
from stream_workloads import KINDS, SAMPLED, Kind, Prompts, Request
from vllm_backend import MODEL as VLLM_MODEL
from vllm_backend import make_repository

from ananke_server.engine.start import device_name, on_cpu
from ananke_server.launch import TritonServer

STARTED: Final = time.monotonic()
SIDES: Final = ("engine", "generate", "vllm_backend")
TOGETHER: Final = "engine and generate"
ROUND_LIMIT: Final = 120.0
RESERVE: Final = 20.0
"""Seconds kept for ending the server and writing the results."""
LEAST: Final = 30.0
"""Seconds that have to be left for a side to be started."""
CLIENTS: Final = 8
PERF_REQUESTS: Final = 2
"""Requests of perf_analyzer for each of its streams, at least four in all."""
MAX_MODEL_LEN: Final = 1024
MAX_NUM_SEQS: Final = 256

TOGETHER_UTILIZATION: Final = 0.4
"""The share of the GPU that has to be free when an engine starts, though it takes less."""
TOGETHER_KV_CACHE: Final = 8 << 30
"""Bytes of each engine's KV cache where two share a GPU: room for 128 requests; measuring what is free would count the other in."""

Run = Callable[[Sequence[Request], float], list[Stream]]
"""A batch of requests, and the seconds it may take."""


def main() -> int:
    arguments = _arguments()
    # The table is printed and the engine ended on a timeout too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="ananke-triton-") as folder:
        model = model_of(arguments.tokenizer, tiny=arguments.quick)
        os.environ |= environment(arguments, model, arguments.streams)
        if arguments.together:
            os.environ["ANANKE_GPU_MEMORY_UTILIZATION"] = str(TOGETHER_UTILIZATION)
        results = Results(arguments.output, _about(arguments))
        shares = CoreShares.of(arguments.server_cores)
        benchmark = Benchmark(arguments, Path(folder), Prompts(model), results, shares)
        try:
            with on_cores(shares.server):
                for side in [TOGETHER] if arguments.together else arguments.sides:
                    benchmark.run(side)
        finally:
            results.flush()
            results.print()
    return 0 if results.points else 1


class Benchmark:
    """Runs one side after the other, or two together."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, prompts: Prompts, results: Results, shares: CoreShares) -> None:
        self._arguments = arguments
        self._shares = shares
        self._folder = folder
        self._prompts = prompts
        self._results = results

    def run(self, side: str) -> None:
        """Start a side, measure it, and end it; a failure is noted, and the next side has its turn."""
        if self._left() < LEAST:
            self._results.note(f"{side}: left out, {max(0.0, self._left()):.0f} s were left")
            return
        try:
            if side == TOGETHER:
                self._together()
            elif side == "engine":
                self._direct()
            else:
                self._through_triton(side)
        except Exception as fault:
            self._results.note(f"{side}: {fault_text(fault, 2000)}")

    def _left(self) -> float:
        return float(self._arguments.deadline) - (time.monotonic() - STARTED) - RESERVE

    def _together(self) -> None:
        with serving([], "triton-benchmark-together", wait=False) as server, self._started_directly() as direct:
            server.wait_until_ready(self._left())
            with self._clients(server) as running:
                self._measure({"engine": direct["engine"], "generate": _through(running, "generate")})

    def _direct(self) -> None:
        with self._started_directly() as direct:
            self._measure(direct)

    @contextlib.contextmanager
    def _started_directly(self) -> Iterator[dict[str, Run]]:
        """An engine in this process: ``engine`` and ``guided``. Its event loop stands still between two rounds."""
        # Not above: client processes import this program too, and vLLM with it would take each of them seconds.
        from stream_direct import Direct

        begun = time.perf_counter()
        with asyncio.Runner() as runner:
            direct = runner.run(Direct.start())
            self._results.about |= {"device": device_name(), "engine_start_seconds": round(time.perf_counter() - begun, 1)}
            try:
                yield {"engine": _directly(runner, direct.engine), "guided": _directly(runner, direct.guided)}
            finally:
                runner.run(direct.close())

    def _through_triton(self, side: str) -> None:
        model = side
        options: dict[str, Any] = {"environment": stream_stall.LIMITS if self._arguments.stall else {}}
        if side == "vllm_backend":
            if self._arguments.vllm_backend is None:
                self._results.note("vllm_backend: left out, no --vllm-backend was given")
                return
            source = Path(self._arguments.vllm_backend)
            model, options = VLLM_MODEL, {"repository": make_repository(self._folder / side, source, _vllm_arguments(self._arguments))}
        with self._server(side, **options) as server:
            with self._clients(server) as running:
                self._measure({side: _through(running, model)})
                if self._arguments.stall and side == "generate":
                    self._stall(server.grpc_url, running)
            if self._arguments.perf:
                with on_cores(self._shares.clients):
                    self._perf(side, model, server.grpc_url)

    @contextlib.contextmanager
    def _server(self, side: str, **options: Any) -> Iterator[TritonServer]:
        begun = time.perf_counter()
        with serving([], f"triton-benchmark-{side}", timeout=self._left(), **options) as server:
            self._results.about |= {f"{side}_start_seconds": round(time.perf_counter() - begun, 1)}
            yield server

    @contextlib.contextmanager
    def _clients(self, server: TritonServer) -> Iterator[Clients]:
        with contextlib.ExitStack() as opened:
            with on_cores(self._shares.clients):
                running = opened.enter_context(clients(server.grpc_url, min(CLIENTS, max(self._arguments.streams))))
            yield running

    def _measure(self, runs: Mapping[str, Run]) -> None:
        """Rounds of these sides in turns."""
        for streams in self._arguments.streams:
            for kind in KINDS:
                done: dict[str, list[list[Stream]]] = {side: [] for side in runs}
                for number in range(1 + measured_rounds(streams, self._arguments.rounds)):
                    requests = self._prompts.requests(kind, streams, number, self._arguments.tokens)
                    for side, run in runs.items():
                        if (limit := min(self._left(), ROUND_LIMIT)) >= 1:
                            done[side].append(self._round(side, run, requests, limit))
                for side, rounds in done.items():
                    self._put(side, kind, streams, rounds)

    def _round(self, side: str, run: Run, requests: Sequence[Request], limit: float) -> list[Stream]:
        try:
            return run(requests, limit)
        except TimeoutError:
            self._results.note(f"{side} {requests[0].kind} {len(requests)}: a round took more than {limit:.0f} s")
            return []

    def _stall(self, url: str, running: Clients) -> None:
        streams = min(stream_stall.STREAMS, self._arguments.stall_streams)
        tokens, rounds = self._arguments.stall_tokens, self._arguments.stall_rounds
        try:
            self._results.stall = stream_stall.measure(
                url, running, self._prompts, tokens=tokens, rounds=rounds, streams=streams, left=self._left
            )
        except RuntimeError as fault:
            self._results.note(f"stall: {fault}")
        self._results.flush()

    def _perf(self, side: str, model: str, url: str) -> None:
        if stream_perf.program() is None:
            self._results.note("perf_analyzer: left out, it is not on PATH or does not run here")
            return
        for streams in self._arguments.streams:
            for kind in KINDS:
                if self._left() < 5:
                    self._results.note(f"perf {side} {kind} {streams}: no time was left")
                    continue
                requests = self._prompts.requests(
                    kind, streams, 1 + measured_rounds(streams, self._arguments.rounds), self._arguments.tokens
                )
                count = max(4, PERF_REQUESTS * streams)
                try:
                    done = stream_perf.profile(url, model, requests, streams, count=count, timeout=min(self._left(), ROUND_LIMIT))
                except Exception as fault:
                    self._results.note(f"perf {side} {kind} {streams}: {fault_text(fault, 400)}")
                    continue
                self._put(f"perf {side}", kind, streams, [[], done])

    def _put(self, side: str, kind: Kind, streams: int, rounds: Sequence[Sequence[Stream]]) -> None:
        """A point of the rounds after the first, which warms up; without any there is a note instead."""
        good = [[one for one in streams_ if stream_fault(one, kind) is None] for streams_ in rounds]
        if faults := [fault for streams_ in rounds for one in streams_ if (fault := stream_fault(one, kind))]:
            self._results.note(f"{side} {kind} {streams}: {len(faults)} streams failed: {faults[0]}")
        measured = [streams_ for streams_ in good[1:] if streams_]
        if not measured:
            self._results.note(f"{side} {kind} {streams}: nothing was measured, {self._left():.0f} s are left")
            return
        self._results.put(side, kind, streams, measures(good[0], measured, self._arguments.tokens))


def _directly(runner: asyncio.Runner, run: Callable[[Sequence[Request]], Awaitable[list[Stream]]]) -> Run:
    async def bounded(requests: Sequence[Request], limit: float) -> list[Stream]:
        async with asyncio.timeout(limit):
            return await run(requests)

    return lambda requests, limit: runner.run(bounded(requests, limit))


def _through(running: Clients, model: str) -> Run:
    return lambda requests, limit: running.run([Order(one.message(model)) for one in requests], limit)


def _engine_args(arguments: argparse.Namespace, streams: Sequence[int]) -> dict[str, Any]:
    """Arguments of vLLM that are the same on every side."""
    further: dict[str, Any] = json.loads(arguments.engine_args)
    if not on_cpu() and not arguments.enforce_eager:
        further = {"cudagraph_capture_sizes": sorted({*CAPTURED, *streams})} | further
    return further


def environment(arguments: argparse.Namespace, model: str, streams: Sequence[int]) -> dict[str, str]:
    """Settings of our server, and of the engine in this process."""
    environment = {
        "ANANKE_MODEL": model,
        "ANANKE_DTYPE": "auto" if on_cpu() else "bfloat16",
        "ANANKE_LOAD_FORMAT": "auto" if arguments.tokenizer is None else "dummy",
        "ANANKE_MAX_MODEL_LEN": str(MAX_MODEL_LEN),
        "ANANKE_MAX_NUM_SEQS": str(MAX_NUM_SEQS),
        "ANANKE_GPU_MEMORY_UTILIZATION": "0.85",
        "ANANKE_ENGINE_ARGS": json.dumps(_engine_args(arguments, streams)),
        # What our server sets for itself, and the other backend would otherwise choose for itself.
        "VLLM_USE_V2_MODEL_RUNNER": "0" if on_cpu() else "1",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
    }
    return environment | ({"ANANKE_ENFORCE_EAGER": "true"} if arguments.enforce_eager else {})


def _vllm_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """The other backend's ``model.json``: the same engine, with vLLM's guidance in place of our masks."""
    return {
        "model": os.environ["ANANKE_MODEL"],
        "dtype": "float32" if on_cpu() else "bfloat16",
        "load_format": os.environ["ANANKE_LOAD_FORMAT"],
        "max_model_len": MAX_MODEL_LEN,
        "max_num_seqs": MAX_NUM_SEQS,
        "gpu_memory_utilization": 0.85,
        "enforce_eager": on_cpu() or arguments.enforce_eager,
        "disable_log_stats": True,
        "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
    } | _engine_args(arguments, arguments.streams)


def _about(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "device": device_name(),
        "model": "small real model" if arguments.tokenizer is None else "tiny shape" if arguments.quick else SHAPE_7B,
        "tokens": arguments.tokens,
        "server_cores": arguments.server_cores,
        "sampling": SAMPLED | {"seed": "the request's number in its batch", "ignore_eos": "unconstrained only"},
        "engine_args": _engine_args(arguments, arguments.streams),
        "enforce_eager": arguments.enforce_eager,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="a folder with tokenizer.json and tokenizer_config.json of up to 152,064 tokens")
    parser.add_argument("--vllm-backend", help="a copy of the repository triton-inference-server/vllm_backend, or its src folder")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="in this order; engine measures guided too")
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 32, 128])
    parser.add_argument("--tokens", type=int, default=200, help="tokens a request")
    parser.add_argument("--rounds", type=int, default=2, help="measured rounds, more where there are few streams")
    parser.add_argument("--together", action="store_true", help="engine and generate in turns, instead of --sides; no perf_analyzer")
    add_server_cores(parser)
    parser.add_argument("--stall", action="store_true", help="slow and new constraints in the middle of a run of generate")
    parser.add_argument("--stall-streams", type=int, default=stream_stall.STREAMS)
    parser.add_argument(
        "--stall-tokens", type=int, default=600, help="tokens a request of the stall's rounds, which have to last for seconds"
    )
    parser.add_argument("--stall-rounds", type=int, default=2, help="rounds of each sort")
    parser.add_argument("--no-perf", dest="perf", action="store_false", help="leave perf_analyzer out")
    parser.add_argument("--enforce-eager", action="store_true", help="start engines without compilation and CUDA graphs")
    parser.add_argument("--engine-args", default="{}", help="further engine arguments of vLLM on every side, as a JSON object")
    parser.add_argument("--deadline", type=float, default=560, help="seconds after the start of the program in which all has to be done")
    parser.add_argument("--quick", action="store_true", help="1 and 4 streams, 20 tokens, a tiny shape or the small real model")
    parser.add_argument("--output", help="a JSON file, written after every point")
    arguments = parsed(parser)
    if arguments.together and arguments.stall:
        parser.error("--stall is for --sides, and not for --together")
    if arguments.quick:
        arguments.streams, arguments.tokens = [1, 4], 20
        arguments.stall_streams, arguments.stall_tokens, arguments.stall_rounds = 8, 100, 1
    if arguments.together and not on_cpu():
        arguments.engine_args = json.dumps({"kv_cache_memory_bytes": TOGETHER_KV_CACHE} | json.loads(arguments.engine_args))
    return arguments


if __name__ == "__main__":
    sys.exit(main())
