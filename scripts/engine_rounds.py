"""Rounds of the engine's benchmark: a batch of requests sent at once to vLLM, and the times of its tokens."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from bench_support import TokenTimes, mask_counts, percentiles, token_ms
from engine_workloads import Job

from ananke_server.engine.guides import GuideDesk
from ananke_server.masking.crew import MaskCrew
from ananke_server.masking.worker import EXTRA_ARGS_KEY

UNCONSTRAINED: Final = "unconstrained"
OURS: Final = "ours"
"""With so many mask processes as the engine has; ``ours/4`` with four of them."""
PROMPT_TOKENS: Final = 16
SAMPLING: Final = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "detokenize": False}
"""The same for every variant, with a seed for each request."""
PAUSE: Final = 0.1


def is_ours(variant: str) -> bool:
    """Whether our masks are meant, by all mask processes or by some."""
    return re.fullmatch(rf"{OURS}(/[1-9]\d*)?", variant) is not None


@dataclass(slots=True)
class Round:
    """One batch: its streams, how long it took in all, and what the workers' stages took where they were timed."""

    streams: list[TokenTimes]
    seconds: float
    stages: dict[str, Any] = field(default_factory=dict)


class Bench:
    """The engine under test, and the desk that constrained requests go through in production."""

    def __init__(self, llm: Any, crew: MaskCrew, *, tokens: int, stages: bool) -> None:
        self._llm = llm
        self._tokens = tokens
        self._stages = stages
        self._random = random.Random(0)
        self._requests = 0
        self._crew = crew
        self._desk = GuideDesk(crew)

    async def round(self, variant: str, jobs: Sequence[Job], batch: int, timeout: float, *, tokens: int | None = None) -> Round:
        """Send a batch at once and wait for all of it; ``tokens`` a request, where they are not as many as in other rounds.

        Raises:
            ValueError: more mask processes are asked for than there are.
            TimeoutError: it took longer; its requests are aborted.
            Exception: what the engine says of the first request that failed.
        """
        if is_ours(variant):
            self._desk.processes = self._processes(variant)
            await self._stage_times()
        # The last round's matchers are back in the pool by then.
        await asyncio.sleep(PAUSE)
        begun = time.perf_counter()
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._request(variant, jobs[index % len(jobs)], index, tokens or self._tokens)) for index in range(batch)
            ]
        result = Round([task.result() for task in tasks], time.perf_counter() - begun)
        if is_ours(variant):
            result.stages = await self._stage_times()
        return result

    async def _stage_times(self) -> dict[str, Any]:
        """Where the time went since the last call: of the engine's thread where that was asked for, and of the mask processes."""
        crew = [times for times in await self._crew.times() if times.get("steps")]
        stages: dict[str, Any] = {}
        if crew:
            total: Counter[str] = sum(map(Counter, crew), Counter())
            filled = [times["filled_ns"] / times["steps"] / 1e3 for times in crew]
            stages["mask_processes"] = {
                "processes": len(crew),
                "steps": max(times["steps"] for times in crew),
                "fill_us_step": percentiles(filled),
                "found_share": round(total["found"] / total["rows"], 3),
                "fill_us_row": round(total["filled_ns"] / total["rows"] / 1e3, 1),
            }
        if self._stages:
            [stages["engine_thread"]] = await self._llm.collective_rpc("ananke_stage_times")
        return stages

    async def _request(self, variant: str, job: Job, index: int, tokens: int) -> TokenTimes:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        values: dict[str, Any] = SAMPLING | {"max_tokens": tokens, "seed": index, "output_kind": RequestOutputKind.DELTA}
        if job.trace is not None:
            values["trace_decode_token_ids"] = job.trace
        if variant == UNCONSTRAINED:
            return await self._stream(SamplingParams(**values, ignore_eos=True), TokenTimes(time.perf_counter()))
        if not is_ours(variant):
            values["structured_outputs"] = StructuredOutputsParams(json=job.schema)
            return await self._stream(SamplingParams(**values), TokenTimes(time.perf_counter()))
        stream = TokenTimes(time.perf_counter())
        async with self._desk.guide(job.program, of_schema=True) as hold:
            await self._stream(SamplingParams(**values, extra_args={EXTRA_ARGS_KEY: list(hold.ticket)}), stream)
            stream.outcome = await hold.finish()
        return stream

    def _processes(self, variant: str) -> int | None:
        count = variant.partition("/")[2]
        if count and int(count) > self._crew.processes:
            raise ValueError(f"{variant}: the engine has {self._crew.processes} mask processes")
        return int(count) if count else None

    async def _stream(self, params: Any, stream: TokenTimes) -> TokenTimes:
        from vllm import TokensPrompt

        self._requests += 1
        prompt = TokensPrompt(prompt_token_ids=[self._random.randrange(1000, 20_000) for _ in range(PROMPT_TOKENS)])
        async with aclosing(self._llm.generate(prompt, params, f"bench-{self._requests}")) as responses:
            async for response in responses:
                if count := len(response.outputs[0].token_ids):
                    stream.stamps.append((time.perf_counter(), count))
        if stream.tokens < 2:
            raise RuntimeError(f"{stream.tokens} tokens, finish reason {response.outputs[0].finish_reason!r}")
        return stream


def measures(warm_up: Round, rounds: Sequence[Round], tokens: int) -> dict[str, Any]:
    """The measured rounds of a variant as numbers, in milliseconds unless said otherwise."""
    streams = [stream for one in rounds for stream in one.streams]
    gaps = [gap for stream in streams for _, gap in stream.gaps()]
    steady = [step for one in rounds if (step := _steady_step(one.streams)) is not None]
    result: dict[str, Any] = {
        "rounds": len(rounds),
        "token_ms": token_ms(streams),
        "round_token_ms": [token_ms(one.streams) for one in rounds],
        "steady_step_ms": round(float(np.mean(steady)) * 1e3, 4) if steady else None,
        "between_tokens_ms": percentiles(gaps, scale=1e3),
        "first_token_ms": percentiles([stream.first_token for stream in streams], scale=1e3),
        "first_token_warm_up_ms": percentiles([stream.first_token for stream in warm_up.streams], scale=1e3),
        "warm_up_seconds": round(warm_up.seconds, 3),
        "round_seconds": [round(one.seconds, 3) for one in rounds],
        "ended_early": sum(stream.tokens < tokens for stream in streams),
    }
    if counts := mask_counts(streams):
        result["mask"] = counts
    if stages := [one.stages for one in rounds if one.stages]:
        result["stages"] = stages[-1]
    return result


def _steady_step(streams: Sequence[TokenTimes]) -> float | None:
    """The time a token while every stream was at it: after the last first token, before the first last one."""
    start, end = max(stream.stamps[0][0] for stream in streams), min(stream.stamps[-1][0] for stream in streams)
    steps = []
    for stream in streams:
        inside = [(moment, count) for moment, count in stream.stamps if start <= moment <= end]
        if len(inside) > 1:
            steps.append((inside[-1][0] - inside[0][0]) / sum(count for _, count in inside[1:]))
    return float(np.mean(steps)) if steps else None
