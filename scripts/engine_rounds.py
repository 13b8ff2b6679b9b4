"""Rounds of the engine's benchmark: a batch of requests sent at once to vLLM, and the times of its tokens."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from bench_support import percentiles
from engine_workloads import Job

from ananke_server.engine.guides import GuideDesk
from ananke_server.masking.tickets import Outcome, TicketTable
from ananke_server.masking.worker import EXTRA_ARGS_KEY

UNCONSTRAINED: Final = "unconstrained"
OURS: Final = "ours"
PROMPT_TOKENS: Final = 16
SAMPLING: Final = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "detokenize": False}
"""The same for every variant, with a seed for each request."""
TICKETS: Final = 1024
PAUSE: Final = 0.1


@dataclass(slots=True)
class Stream:
    """The tokens of one request as they came: when, in seconds, and how many at once."""

    begun: float
    stamps: list[tuple[float, int]] = field(default_factory=list)
    outcome: Outcome | None = None

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self.stamps)

    @property
    def first_token(self) -> float:
        return self.stamps[0][0] - self.begun

    @property
    def token_time(self) -> float:
        """(last - first) / (tokens that came after the first message)."""
        return (self.stamps[-1][0] - self.stamps[0][0]) / (self.tokens - self.stamps[0][1])

    def gaps(self) -> list[float]:
        """The time before each token, that of tokens which came at once shared evenly."""
        pairs = zip(self.stamps, self.stamps[1:], strict=False)
        return [(now - before) / count for (before, _), (now, count) in pairs for _ in range(count)]


@dataclass(slots=True)
class Round:
    """One batch: its streams, how long it took in all, and what the workers' stages took where they were timed."""

    streams: list[Stream]
    seconds: float
    stages: dict[str, Any] = field(default_factory=dict)


class Bench:
    """The engine under test, and the desk that constrained requests go through in production."""

    def __init__(self, llm: Any, table: TicketTable, *, tokens: int, stages: bool) -> None:
        self._llm = llm
        self._tokens = tokens
        self._stages = stages
        self._random = random.Random(0)
        self._requests = 0
        self._desk = GuideDesk(
            table,
            ranks=1,
            sync=lambda prepare, release: llm.collective_rpc("ananke_sync", args=(prepare, release)),
            engine_is_dead=lambda: bool(llm.errored),
        )

    async def round(self, variant: str, jobs: Sequence[Job], batch: int, timeout: float) -> Round:
        """Send a batch at once and wait for all of it.

        Raises:
            TimeoutError: it took longer; its requests are aborted.
            Exception: what the engine says of the first request that failed.
        """
        if self._stages and variant == OURS:
            await self._llm.collective_rpc("ananke_stage_times")
        # The last round's matchers are back in the pool by then.
        await asyncio.sleep(PAUSE)
        begun = time.perf_counter()
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._request(variant, jobs[index % len(jobs)], index)) for index in range(batch)]
        result = Round([task.result() for task in tasks], time.perf_counter() - begun)
        if self._stages and variant == OURS:
            [result.stages] = await self._llm.collective_rpc("ananke_stage_times")
        return result

    async def _request(self, variant: str, job: Job, index: int) -> Stream:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        values: dict[str, Any] = SAMPLING | {"max_tokens": self._tokens, "seed": index, "output_kind": RequestOutputKind.DELTA}
        if job.trace is not None:
            values["trace_decode_token_ids"] = job.trace
        if variant == UNCONSTRAINED:
            return await self._stream(SamplingParams(**values, ignore_eos=True), Stream(time.perf_counter()))
        if variant != OURS:
            values["structured_outputs"] = StructuredOutputsParams(json=job.schema)
            return await self._stream(SamplingParams(**values), Stream(time.perf_counter()))
        stream = Stream(time.perf_counter())
        async with self._desk.guide(job.program) as ticket:
            extra = {EXTRA_ARGS_KEY: [ticket.index, ticket.generation, job.program]}
            await self._stream(SamplingParams(**values, extra_args=extra), stream)
            stream.outcome = self._desk.check(ticket)
        return stream

    async def _stream(self, params: Any, stream: Stream) -> Stream:
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
    gaps = [gap for stream in streams for gap in stream.gaps()]
    outcomes = [(stream.outcome, len(one.streams)) for one in rounds for stream in one.streams if stream.outcome is not None]
    steady = [step for one in rounds if (step := _steady_step(one.streams)) is not None]
    result: dict[str, Any] = {
        "rounds": len(rounds),
        "token_ms": round(float(np.mean([stream.token_time for stream in streams])) * 1e3, 4),
        "steady_step_ms": round(float(np.mean(steady)) * 1e3, 4) if steady else None,
        "between_tokens_ms": percentiles(gaps, scale=1e3),
        "first_token_ms": percentiles([stream.first_token for stream in streams], scale=1e3),
        "first_token_warm_up_ms": percentiles([stream.first_token for stream in warm_up.streams], scale=1e3),
        "warm_up_seconds": round(warm_up.seconds, 3),
        "round_seconds": [round(one.seconds, 3) for one in rounds],
        "ended_early": sum(stream.tokens < tokens for stream in streams),
    }
    if outcomes:
        waits = [outcome.wait_ns / max(1, outcome.steps) / 1e3 for outcome, _ in outcomes]
        rows = [wait / batch for wait, (_, batch) in zip(waits, outcomes, strict=True)]
        result["mask"] = {
            "wait_us_step": percentiles(waits),
            "wait_us_row": percentiles(rows),
            "longest_wait_us": round(max(outcome.longest_wait_ns for outcome, _ in outcomes) / 1e3, 1),
            "steps": sum(outcome.steps for outcome, _ in outcomes),
        }
    if stages := [one.stages for one in rounds if one.stages]:
        result["stages"] = stages[-1]
    return result


def _steady_step(streams: Sequence[Stream]) -> float | None:
    """The time a token while every stream was at it: after the last first token, before the first last one."""
    start, end = max(stream.stamps[0][0] for stream in streams), min(stream.stamps[-1][0] for stream in streams)
    steps = []
    for stream in streams:
        inside = [(moment, count) for moment, count in stream.stamps if start <= moment <= end]
        if len(inside) > 1:
            steps.append((inside[-1][0] - inside[0][0]) / sum(count for _, count in inside[1:]))
    return float(np.mean(steps)) if steps else None
