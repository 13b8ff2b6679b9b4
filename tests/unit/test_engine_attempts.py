"""Attempts at a verified output: how many, with which seeds, and what is handed on."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm import SamplingParams

from ananke_client.errors import DeadEndError, EngineUnavailableError, VerificationFailedError
from ananke_server.engine.attempts import Attempt, attempts_of, seed_of, verification, verified_attempt
from ananke_server.engine.request import Delta, Emit
from ananke_server.engine.timeline import Timeline
from ananke_server.engine.verdict import Verdict

VALID = Verdict(None)
CUT = Verdict("the output was cut", is_cut=True)


def wrong(reason: str) -> Verdict:
    return Verdict(reason)


@dataclass
class Engine:
    """Stands for the engine: its attempts end as they are told to, each after two tokens and two pieces of text."""

    endings: list[Verdict | Exception]
    timeline: Timeline = field(default_factory=Timeline)
    seeds: list[int | None] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    emitted: list[Delta] = field(default_factory=list)

    async def sample(self, params: SamplingParams, number: int, emit: Emit) -> Attempt:
        self.seeds.append(params.seed)
        self.numbers.append(number)
        await asyncio.sleep(0)
        self.timeline.admit()
        for token in (2 * number, 2 * number + 1):
            delta = Delta(f"{token};", 1, [{str(token): {"logprob": -1.0}}])
            self.timeline.add(delta, [token], SimpleNamespace(scheduled_ts=1.0), first_token_at=1.0)  # type: ignore[arg-type]
            emit(delta)
        ending = self.endings.pop(0)
        if isinstance(ending, Exception):
            raise ending
        return Attempt(params, SimpleNamespace(finish_reason="stop"), None, ending, first_seed=7)  # type: ignore[arg-type]

    def run(self, params: SamplingParams, bound: int = 4) -> Attempt:
        attempt = verified_attempt(self.sample, params, bound=bound, emit=self.emitted.append, timeline=self.timeline)
        return asyncio.run(attempt)  # type: ignore[arg-type]


def params(**values: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 1.0, "seed": 7, "max_tokens": 9} | values)


@pytest.mark.parametrize("failures", range(4))
def test_the_first_output_that_passes_is_handed_on_whole_and_the_others_never(failures: int) -> None:
    engine = Engine([wrong(f"fault {number}") for number in range(failures)] + [VALID, wrong("one too many")])
    attempt = engine.run(params())
    number = failures + 1
    assert attempt.number == number
    assert engine.numbers == list(range(1, number + 1))
    assert [(delta.text, delta.tokens) for delta in engine.emitted] == [(f"{2 * number};{2 * number + 1};", 2)]
    assert engine.emitted[0].logprobs == [{str(2 * number): {"logprob": -1.0}}, {str(2 * number + 1): {"logprob": -1.0}}]
    assert engine.timeline.text == engine.emitted[0].text
    assert engine.timeline.token_ids == [2 * number, 2 * number + 1]
    faults = [f"fault {number}" for number in range(failures)]
    assert verification(attempt, engine.timeline) == {"attempts": number, "tokens": 2 * number, "faults": faults}


def test_every_attempt_has_a_seed_of_its_own_that_follows_from_the_first() -> None:
    runs = []
    for _ in range(2):
        engine = Engine([wrong("a"), wrong("b"), wrong("c"), VALID])
        attempt = engine.run(params())
        runs.append(engine.seeds)
        assert attempt.params.seed == engine.seeds[-1]
    assert runs[0] == runs[1]
    assert len({*runs[0]}) == 4
    assert runs[0][0] == 7
    assert runs[0][1] == int.from_bytes(hashlib.sha256(b"7:2").digest()[:8], "big") >> 11
    assert all(seed is not None and 0 <= seed < 2**53 for seed in runs[0])
    assert seed_of(8, 2) != seed_of(7, 2)


def test_what_was_asked_for_stays_but_the_seed() -> None:
    asked = params(temperature=0.3, top_p=0.5, stop=["x"], extra_args={"a": 1})
    first, second, third = attempts_of(asked, 3)
    assert first is asked
    second.extra_args = {"b": 2}
    for other in (second, third):
        assert (other.temperature, other.top_p, other.stop, other.max_tokens) == (0.3, 0.5, ["x"], 9)
    assert asked.extra_args == third.extra_args == {"a": 1}


def test_no_attempt_passes() -> None:
    engine = Engine([wrong("first"), wrong("second"), wrong("the last fault")])
    with pytest.raises(VerificationFailedError, match="none of 3 outputs passed the verification; the last one: the last fault"):
        engine.run(params(), bound=3)
    assert not engine.endings
    assert not engine.emitted


@pytest.mark.parametrize("greedy", [{"temperature": 0.0}, {"top_k": 1}])
def test_greedy_sampling_has_one_attempt(greedy: dict[str, Any]) -> None:
    engine = Engine([wrong("greedy"), VALID])
    with pytest.raises(VerificationFailedError, match="the output failed the verification; the last one: greedy"):
        engine.run(params(**greedy))
    assert engine.numbers == [1]


def test_a_cut_output_is_returned_as_it_is() -> None:
    engine = Engine([wrong("fault"), CUT, VALID])
    attempt = engine.run(params())
    assert (attempt.number, attempt.verdict) == (2, CUT)
    assert [delta.text for delta in engine.emitted] == ["4;5;"]


def test_a_dead_end_is_a_failed_attempt() -> None:
    attempt = Engine([DeadEndError("nothing can follow"), VALID]).run(params())
    assert (attempt.number, attempt.faults) == (2, ("nothing can follow",))
    with pytest.raises(VerificationFailedError, match="nothing can follow"):
        Engine([DeadEndError("nothing can follow")]).run(params(), bound=1)


def test_any_other_error_ends_the_request() -> None:
    engine = Engine([wrong("fault"), EngineUnavailableError("dead"), VALID])
    with pytest.raises(EngineUnavailableError):
        engine.run(params())
    assert not engine.emitted


def test_a_deadline_ends_the_attempts() -> None:
    engine = Engine([wrong("fault")] * 100_000)

    async def bounded() -> None:
        async with asyncio.timeout(0.05):
            await verified_attempt(engine.sample, params(), bound=100_000, emit=engine.emitted.append, timeline=engine.timeline)

    with pytest.raises(TimeoutError):
        run(bounded)
    assert engine.timeline.tokens >= 2 * (len(engine.numbers) - 1) > 2


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())
