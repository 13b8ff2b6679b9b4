"""One vLLM with the mask processes that it masks with: they start, sleep, fail and end together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ananke_server.engine.guides import GuideDesk, Hold
from ananke_server.masking.crew import MaskCrew
from ananke_server.masking.worker import EXTRA_ARGS_KEY

if TYPE_CHECKING:
    from vllm import SamplingParams

    from ananke_server.constraints import CompiledConstraint


@dataclass
class VllmEngine:
    """Every method belongs to the event loop on which the mask processes were started."""

    llm: Any
    """vLLM's ``AsyncLLM``."""
    crew: MaskCrew
    can_sleep: bool
    """Whether vLLM was started so that it can let go of its GPU and stay."""
    desk: GuideDesk = field(init=False)

    def __post_init__(self) -> None:
        self.desk = GuideDesk(self.crew)

    @property
    def fault(self) -> str | None:
        """Why nothing, or nothing constrained, can be generated any more."""
        if self.llm.errored:
            return "the engine has died"
        return "the processes that fill masks have ended" if self.crew.is_dead else None

    @property
    def unfinished(self) -> int:
        """Requests that vLLM knows; may be read from any thread."""
        return int(self.llm.get_num_unfinished_requests())

    @asynccontextmanager
    async def guide(self, constraint: CompiledConstraint, params: SamplingParams) -> AsyncIterator[Hold | None]:
        """A hold on a guide that is ready, named in the request's parameters; None where there is nothing to mask.

        Raises:
            AnankeError: as ``GuideDesk.guide``.
        """
        if constraint.grammar is None:
            yield None
            return
        async with self.desk.guide(constraint.grammar, of_schema=constraint.report.kind == "json_schema") as hold:
            params.extra_args = {EXTRA_ARGS_KEY: list(hold.ticket)}
            yield hold

    async def sleep(self, level: int) -> None:
        """Let go of the GPU's memory: the KV cache, and the weights, which level 1 keeps in the host's memory and level 2 drops."""
        await self.llm.sleep(level)

    async def wake(self, level: int) -> None:
        """Take the memory again, and the weights from where they are."""
        if level == 1:
            await self.llm.wake_up()
            return
        await self.llm.wake_up(tags=["weights"])
        await self.llm.collective_rpc("reload_weights")
        await self.llm.wake_up(tags=["kv_cache"])

    async def shutdown(self) -> None:
        """End all processes, within seconds, whatever state they are in. Who still waits for an output gets ``EngineDeadError``."""
        from vllm.v1.engine.exceptions import EngineDeadError

        self.llm.output_processor.propagate_error(EngineDeadError())
        await asyncio.sleep(0)
        try:
            await asyncio.to_thread(self.llm.shutdown)
        finally:
            self.crew.close()
