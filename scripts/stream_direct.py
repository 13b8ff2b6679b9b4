"""The engine called directly, in this process: vLLM's own streams under our guides, and those of our guided engine."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from bench_support import outcome_of
from stream_clients import Stream
from stream_workloads import Request, hard_constraint

from ananke_server.constraints import UNCONSTRAINED, CompiledConstraint
from ananke_server.engine.engine import GuidedEngine
from ananke_server.engine.request import Delta, GenerateRequest
from ananke_server.handover import Seal
from ananke_server.heap import settle
from ananke_server.settings import load_settings

_SECRET = b"of this process alone, never sent"


class Direct:
    """One engine, and the constraint of the benchmark compiled as ``validate`` hands it over."""

    def __init__(self, engine: GuidedEngine, compiled: CompiledConstraint, sealed: bytes) -> None:
        self._engine = engine
        self._compiled = compiled
        self._sealed = sealed
        self._number = 0

    @classmethod
    async def start(cls) -> Direct:
        """Start the engine that the environment's settings describe, on this event loop."""
        seal = Seal(_SECRET)
        # Cores can be kept from what a server starts, and not from this process.
        engine = await GuidedEngine.start(load_settings().model_copy(update={"engine_cores": 0}), seal)
        constraint = hard_constraint()
        compiled = await asyncio.to_thread(engine.compiler.compile, constraint)
        settle()
        return cls(engine, compiled, seal.close(constraint, compiled))

    async def close(self) -> None:
        """End the engine."""
        await self._engine.shutdown()

    async def engine(self, requests: Sequence[Request], *, stream: bool = True) -> list[Stream]:
        """vLLM's AsyncLLM: all requests at once, to their ends; those that do not stream have all their tokens there."""
        return await self._together(requests, partial(self._vllm, stream=stream))

    async def guided(self, requests: Sequence[Request], *, stream: bool = True) -> list[Stream]:
        """The same through our guided engine, which the Triton model calls."""
        return await self._together(requests, partial(self._guided, stream=stream))

    async def _together(self, requests: Sequence[Request], run: Callable[[Request, str], Awaitable[Stream]]) -> list[Stream]:
        # The last round's matchers are back in the pool by then.
        await asyncio.sleep(0.3)
        self._number += 1
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_of(run(one, f"direct-{self._number}-{index}"))) for index, one in enumerate(requests)]
        return [task.result() for task in tasks]

    async def _vllm(self, request: Request, request_id: str, *, stream: bool) -> Stream:
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        done = Stream(time.perf_counter())
        kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
        params = SamplingParams(**request.sampling(), output_kind=kind)
        compiled = self._compiled if request.kind == "hard" else UNCONSTRAINED
        prompt = TokensPrompt(prompt_token_ids=request.prompt_tokens)
        async with (
            self._engine.life.engine() as engine,
            engine.guide(compiled, params) as hold,
            aclosing(engine.llm.generate(prompt, params, request_id)) as responses,
        ):
            async for response in responses:
                _stamp(done, len(response.outputs[0].token_ids))
            if hold is not None:
                done.outcome = await hold.finish()
        return done

    async def _guided(self, request: Request, request_id: str, *, stream: bool) -> Stream:
        done = Stream(time.perf_counter())
        hard = request.kind == "hard"
        asked = GenerateRequest(
            request_id,
            request.prompt,
            constraint=hard_constraint() if hard else None,
            sealed=self._sealed if hard else None,
            sampling_parameters=json.dumps(request.sampling()),
            stream=stream,
        )

        def emit(delta: Delta) -> None:
            _stamp(done, delta.tokens)

        result = await self._engine.generate(asked, emit)
        done.outcome = outcome_of(result.metrics)
        return done


async def _of(stream: Awaitable[Stream]) -> Stream:
    return await stream


def _stamp(stream: Stream, count: Any) -> None:
    if count:
        stream.stamps.append((time.perf_counter(), int(count)))
