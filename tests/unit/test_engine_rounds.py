"""The engine's benchmark: what it reads of mask processes, first tokens of new constraints, and what tokens cost by it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from bench_support import TokenTimes, mask_counts
from cost import million_tokens, times_of
from engine_rounds import Bench, Round, is_ours
from engine_workloads import Job
from first_tokens import TOKENS, WARM_UPS, first_tokens
from mask_stage import mask_stage
from masking_support import CHOICE

from ananke_server.masking.tickets import Outcome


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
        async def round(self, variant: str, jobs: list[Job], batch: int, timeout: float, *, tokens: int) -> Round:
            assert (batch, timeout, tokens) == (1, 9.0, TOKENS)
            added = 0.0 if variant == "unconstrained" else 0.004 if (variant, jobs[0]) not in sent else 0.001
            sent.append((variant, jobs[0]))
            first = 1.0 + len({job.schema for _, job in sent}) / 10 + added
            return Round([TokenTimes(1.0, [(first, 1)])], 0.0)

    jobs = [Job(f"schema {number}", "", trace=[1, 2]) for number in range(WARM_UPS + 2)]
    measured = asyncio.run(first_tokens(Engine(), jobs, ["ours", "guidance"], lambda: 9.0, pytest.fail))  # type: ignore[arg-type]
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


def test_a_schema_under_which_a_request_fails_is_left_out_and_told() -> None:
    rounds = iter(range(100))
    notes: list[str] = []

    class Engine:
        async def round(self, *_: Any, **__: Any) -> Round:
            if next(rounds) == 3 * WARM_UPS + 1:
                raise ExceptionGroup("of a task group", [RuntimeError("1 tokens")])
            return Round([TokenTimes(1.0, [(1.1, 1)])], 0.0)

    jobs = [Job(f"schema {number}", "") for number in range(WARM_UPS + 3)]
    measured = asyncio.run(first_tokens(Engine(), jobs, ["ours"], lambda: 9.0, notes.append))  # type: ignore[arg-type]
    assert {of["schemas"] for of in measured.values()} == {2}, "its unconstrained request does not count either"
    assert notes == [f"first tokens, schema {WARM_UPS}: RuntimeError: 1 tokens"]


def test_schemas_that_there_is_no_time_for_are_left_out() -> None:
    class Engine:
        async def round(self, *_: Any, **__: Any) -> Round:
            return Round([TokenTimes(1.0, [(1.1, 1)])], 0.0)

    left = iter([9.0] * 4 * (WARM_UPS + 1) + [0.0])
    measured = asyncio.run(first_tokens(Engine(), [Job("", "")] * 20, ["ours"], lambda: next(left), pytest.fail))  # type: ignore[arg-type]
    assert {of["schemas"] for of in measured.values()} == {1}


def test_ours_by_fewer_mask_processes_is_ours() -> None:
    variants = ("unconstrained", "ours", "ours/4", "ours/0", "ours/", "our/4", "guidance")
    assert [variant for variant in variants if is_ours(variant)] == ["ours", "ours/4"]


def test_requests_go_to_as_many_mask_processes_as_the_variant_says() -> None:
    bench = Bench(SimpleNamespace(), SimpleNamespace(processes=4, times=no_times), tokens=5, stages=False)  # type: ignore[arg-type]

    async def used(variant: str) -> int | None:
        await bench.round(variant, [], 0, 9.0)
        return bench._desk.processes

    assert [asyncio.run(used(variant)) for variant in ("ours/4", "ours/2", "ours")] == [4, 2, None]
    with pytest.raises(ValueError, match="ours/5: the engine has 4 mask processes"):
        asyncio.run(used("ours/5"))


async def no_times() -> list[dict[str, int]]:
    return []


def test_the_time_for_a_mask_is_a_mean_of_masks_and_the_wait_one_of_requests() -> None:
    outcomes = Outcome(steps=1, us_mean=10, under_50_us=1, wait_us_mean=4, wait_us_max=9), None, Outcome(steps=3, us_mean=50)
    counted = mask_counts([TokenTimes(0.0, outcome=outcome) for outcome in outcomes])
    assert (counted["masks"], counted["us_mean"], counted["share_under_50_us"]) == (4, 40.0, 0.25)
    assert (counted["wait_us_step"]["mean"], counted["longest_wait_us"]) == (2.0, 9)


def test_a_cost_is_of_both_times_of_one_run() -> None:
    def result(**times: float) -> dict[str, Any]:
        return {"points": [{"workload": "hard", "batch": 8, "variant": variant, "token_ms": ms} for variant, ms in times.items()]}

    first, second = result(unconstrained=4.0, ours=5.0), result(unconstrained=6.0, ours=6.5)
    assert times_of([first, second]) == {("hard", 8): (6.0, 6.5)}, "the last one's"
    assert times_of([first, result(ours=9.0)]) == {("hard", 8): (4.0, 5.0)}, "an unconstrained one of another run is no measure"
    assert million_tokens(3.0, 4.8, 8) == pytest.approx(0.5)
