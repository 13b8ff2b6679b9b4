"""The engine's benchmark: it reads what mask processes count, and tells new constraints from those seen before."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from engine_rounds import Bench, Round, Stream, is_ours
from engine_workloads import Job
from first_tokens import WARM_UPS, first_tokens
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


def test_a_first_token_is_held_against_an_unconstrained_one_under_the_same_schema() -> None:
    sent: list[tuple[str, Job]] = []

    class Engine:
        async def round(self, variant: str, jobs: list[Job], batch: int, timeout: float) -> Round:
            assert batch == 1
            assert timeout == 9.0
            added = 0.0 if variant == "unconstrained" else 0.004 if (variant, jobs[0]) not in sent else 0.001
            sent.append((variant, jobs[0]))
            first = 1.0 + len({job.schema for _, job in sent}) / 10 + added
            return Round([Stream(1.0, [(first, 1)])], 0.0)

    jobs = [Job(f"schema {number}", "", trace=[1, 2]) for number in range(WARM_UPS + 2)]
    measured = asyncio.run(first_tokens(Engine(), jobs, ["ours", "guidance"], lambda: 9.0))  # type: ignore[arg-type]
    assert [variant for variant, _ in sent[:5]] == ["unconstrained", "ours", "ours", "guidance", "guidance"]
    assert all(job.trace is None for _, job in sent)
    assert {name: of["over_ms"] for name, of in measured.items()} == {
        "unconstrained": 0.0,
        "ours, new": 4.0,
        "ours, seen": 1.0,
        "guidance, new": 4.0,
        "guidance, seen": 1.0,
    }
    assert (measured["unconstrained"]["schemas"], measured["unconstrained"]["mean"]) == (2, 450.0), "the first ones warm up"


def test_schemas_that_there_is_no_time_for_are_left_out() -> None:
    class Engine:
        async def round(self, *_: Any) -> Round:
            return Round([Stream(1.0, [(1.1, 1)])], 0.0)

    left = iter([9.0] * 8 * (WARM_UPS + 1) + [0.0])
    measured = asyncio.run(first_tokens(Engine(), [Job("", "")] * 20, ["ours"], lambda: next(left)))  # type: ignore[arg-type]
    assert {of["schemas"] for of in measured.values()} == {2}, "of the schema in the middle of which the time was over nothing counts"


def test_ours_with_fewer_mask_processes_is_ours() -> None:
    assert [variant for variant in ("unconstrained", "ours", "ours/4", "guidance") if is_ours(variant)] == ["ours", "ours/4"]
    desks = Bench(SimpleNamespace(), SimpleNamespace(processes=9), tokens=5, stages=False)  # type: ignore[arg-type]
    assert [desks._desk(variant).processes for variant in ("ours", "ours/4")] == [None, 4]
    assert desks._desk("ours/4") is desks._desk("ours/4"), "and knows which process knows a program"
