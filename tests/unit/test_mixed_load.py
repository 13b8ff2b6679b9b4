"""The mixed load's own means: what it sends, and that it finds what it looks for: wrong outputs, wrong ends, and growth."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from mixed_clients import judged
from mixed_load import Outcome, Sample, is_well
from mixed_requests import SHARES, Request, request

from ananke_client import GenerationResult, Usage


def result(text: str, satisfied: bool | None, finish_reason: str = "stop") -> GenerationResult:
    return GenerationResult(
        text=text,
        finish_reason=finish_reason,
        constraint_satisfied=satisfied,
        guarantee="exact",
        report=None,
        usage=Usage(prompt_tokens=1, completion_tokens=1),
        request_id="r",
    )


ASKED = Request(kind="good", name="a", constraint={"type": "regex", "pattern": "a"}, judge=lambda text: text == "a")


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (result("a", True), "ok"),
        (result("b", True), "wrong output"),
        (result("a", False), "wrong output"),
        (result("a", None), "wrong output"),
        (result("b", False, "length"), "ok"),
        (result("a", True, "length"), "wrong output"),
    ],
)
def test_an_output_is_held_against_the_judge_and_what_the_server_says(answer: GenerationResult, end: str) -> None:
    assert judged(ASKED, answer)[0] == end


def test_without_a_constraint_nothing_may_be_promised() -> None:
    free = replace(ASKED, constraint=None)
    assert judged(free, result("a", None))[0] == "ok"
    assert judged(free, result("a", True))[0] == "wrong output"
    assert judged(free, result("", None))[0] == "wrong output"


def test_a_number_is_always_the_same_request_and_all_kinds_come() -> None:
    kinds = Counter(request(number).kind for number in range(1000))
    assert all(0.7 * share < kinds[kind] / 10 < 1.3 * share for kind, share in SHARES.items())
    names = {request(number).name for number in range(3000)}
    assert len(names) == 49
    for number in range(0, 200, 7):
        first, again = request(number), request(number)
        assert (first.name, first.config, first.body) == (again.name, again.config, again.body)
    assert len({request(number).config.seed for number in range(500) if request(number).kind == "good"}) > 200


def outcome(**given: Any) -> Outcome:
    samples = [Sample(float(second), 1000.0 + second, 300, 14, {"a": 1.0}) for second in range(20)]
    return Outcome(**({"answers": [], "samples": samples, "seconds": 20.0, "left_running": 0, "said_wrong": 0} | given))


def test_growth_is_found_behind_the_warming_up() -> None:
    assert is_well(outcome())
    steps = [Sample(float(second), 500.0 if second < 4 else 1000.0, 300, 14, {}) for second in range(20)]
    assert is_well(outcome(samples=steps)), "the first fifth does not count"
    leaking = [Sample(float(second), 1000.0 + 10 * second, 300, 14, {}) for second in range(20)]
    assert not is_well(outcome(samples=leaking))
    handles = [Sample(float(second), 1000.0, 300 + 2 * second, 14, {}) for second in range(20)]
    assert not is_well(outcome(samples=handles))
    assert not is_well(outcome(left_running=1))
    assert not is_well(outcome(said_wrong=1))
