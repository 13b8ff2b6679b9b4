"""Stage times: kept where they are asked for, gone once taken."""

import pytest

from ananke_server.masking.stage_times import STAGE_TIMES_VARIABLE, StageTimes


def one_step(stages: StageTimes) -> None:
    stages.begin()
    stages.lap("announce")
    stages.lap("apply")


def test_off_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STAGE_TIMES_VARIABLE, raising=False)
    stages = StageTimes.from_environment()
    one_step(stages)
    assert stages.take() == {}


def test_on_counts_each_stage_until_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STAGE_TIMES_VARIABLE, "1")
    stages = StageTimes.from_environment()
    one_step(stages)
    one_step(stages)
    taken = stages.take()
    assert {stage: numbers["count"] for stage, numbers in taken.items()} == {"announce": 2, "apply": 2}
    assert all(numbers["sum_us"] >= 0 for numbers in taken.values())
    assert stages.take() == {}


def test_laps_share_the_time_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([1_000, 4_000, 9_000])
    monkeypatch.setattr("ananke_server.masking.stage_times.time.perf_counter_ns", lambda: next(moments))
    stages = StageTimes(on=True)
    one_step(stages)
    assert {stage: numbers["mean_us"] for stage, numbers in stages.take().items()} == {"announce": 3.0, "apply": 5.0}
