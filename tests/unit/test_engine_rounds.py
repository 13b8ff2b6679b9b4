"""The engine's benchmark reads what mask processes count."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from engine_rounds import Bench
from mask_stage import mask_stage
from masking_support import CHOICE


def test_what_a_mask_process_counts_is_what_the_benchmark_reads() -> None:
    with mask_stage(processes=1) as stage:
        placements = stage.placements()
        placements.place(0, stage.open(CHOICE))
        stage.arrive(1)
        asked = placements.ask(1, placements.slots())
        stage.wait(1, asked)
        stage.order(0, "times", 9)
        [counted] = stage.answer(0, "times", 9)

    async def times() -> list[dict[str, int]]:
        return [counted, {}]

    async def collective_rpc(method: str) -> list[dict[str, Any]]:
        assert method == "ananke_stage_times"
        return [{"apply": {"mean_us": 1.0}}]

    bench = Bench(SimpleNamespace(collective_rpc=collective_rpc), SimpleNamespace(times=times, processes=1), tokens=5, stages=True)  # type: ignore[arg-type]
    stages = asyncio.run(bench._stage_times())
    assert stages["mask_processes"]["steps"] == stages["mask_processes"]["processes"] == 1
    assert stages["mask_processes"]["fill_us_row"] > 0
    assert stages["engine_thread"] == {"apply": {"mean_us": 1.0}}
