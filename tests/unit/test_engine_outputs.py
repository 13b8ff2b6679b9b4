"""Outputs taken where vLLM's own output processor puts them: in order, to the end, and dropped with whoever waited for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm import SamplingParams, TokensPrompt
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
from vllm.v1.metrics.stats import IterationStats

from ananke_server.engine.outputs import generate
from ananke_server.launch import DEFAULT_MODEL

pytestmark = pytest.mark.skipif(not DEFAULT_MODEL.is_dir(), reason="the small model has not been made")
TOKENS = [504, 253, 29, 2031, 198]
STREAM, WHOLE = RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY


class Llm:
    """vLLM's front half as ``AsyncLLM`` uses it; the test plays the engine."""

    def __init__(self) -> None:
        from transformers import AutoTokenizer

        self.output_processor = OutputProcessor(AutoTokenizer.from_pretrained(DEFAULT_MODEL), log_stats=True)
        self.aborted: list[str] = []
        self.fault: Exception | None = None
        self.early: list[int] = []
        """Tokens that the engine has sent before ``add_request`` returns."""

    async def add_request(self, request_id: str, prompt: TokensPrompt, params: SamplingParams) -> RequestOutputCollector:
        if self.fault is not None:
            raise self.fault
        collector = RequestOutputCollector(params.output_kind, request_id)
        request = EngineCoreRequest(request_id, prompt["prompt_token_ids"], None, params, None, time.time(), None, None, None)
        request.external_req_id = request_id
        self.output_processor.add_request(request, None, None, 0, collector)
        for token in self.early:
            self.sample(request_id, token)
        await asyncio.sleep(0)
        return collector

    async def abort(self, request_id: str) -> None:
        self.aborted += self.output_processor.abort_requests([request_id], internal=False)

    def sample(self, request_id: str, token: int, *, last: bool = False) -> None:
        self._send(EngineCoreOutput(request_id, [token], finish_reason=FinishReason.LENGTH if last else None))

    def drop(self, request_id: str) -> None:
        """The engine ends a request of its own accord."""
        self._send(EngineCoreOutput(request_id, [], finish_reason=FinishReason.ABORT))

    def _send(self, output: EngineCoreOutput) -> None:
        self.output_processor.process_outputs([output], time.monotonic(), IterationStats())

    def fail(self, fault: Exception) -> None:
        self.output_processor.propagate_error(fault)


class Taken:
    """What was taken of a request's outputs."""

    def __init__(self) -> None:
        self.tokens: list[list[int]] = []
        self.text = ""
        self.reasons: list[str | None] = []

    def __call__(self, response: Any) -> None:
        output = response.outputs[0]
        self.tokens.append(list(output.token_ids))
        self.text += output.text
        self.reasons.append(output.finish_reason)


def start(
    llm: Llm, take: Callable[[Any], None], kind: RequestOutputKind, request_id: str = "r", stop: str | None = None
) -> asyncio.Task[None]:
    params = SamplingParams(max_tokens=9, output_kind=kind, stop=stop)
    return asyncio.create_task(generate(llm, TokensPrompt(prompt_token_ids=[1, 2]), params, request_id, take))


async def begun() -> None:
    """Return once what was started is waiting for the engine."""
    for _ in range(5):
        await asyncio.sleep(0)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(bounded())


def test_a_stream_has_each_token_before_its_task_runs_again() -> None:
    async def scenario() -> None:
        llm, taken = Llm(), Taken()
        task = start(llm, taken, STREAM)
        await begun()
        for count, token in enumerate([504, 253, 198], start=1):
            llm.sample("r", token, last=count == 3)
            assert len(taken.tokens) == count
        await task
        assert (taken.tokens, taken.reasons) == ([[504], [253], [198]], [None, None, "length"])
        assert taken.text
        assert llm.aborted == []

    run(scenario)


@pytest.mark.parametrize("stop", [None, "-="])
def test_the_whole_comes_at_the_end_and_is_what_a_stream_is(stop: str | None) -> None:
    async def scenario() -> None:
        llm, whole, stream = Llm(), Taken(), Taken()
        tasks = [start(llm, whole, WHOLE, "w", stop), start(llm, stream, STREAM, "s", stop)]
        await begun()
        for token in TOKENS:
            for request_id in "ws":
                llm.sample(request_id, token, last=token == TOKENS[-1])
        await asyncio.gather(*tasks)
        assert len(whole.tokens) == 1
        assert (stop is None) == (len(whole.tokens[0]) == len(TOKENS))
        assert whole.reasons[-1] == stream.reasons[-1] == ("length" if stop is None else "stop")
        assert whole.tokens[0] == [token for piece in stream.tokens for token in piece]
        assert whole.text == stream.text

    run(scenario)


def test_what_came_while_the_request_was_on_its_way_is_not_lost() -> None:
    async def scenario() -> None:
        llm, taken = Llm(), Taken()
        llm.early = [504, 253]
        task = start(llm, taken, STREAM)
        await begun()
        llm.sample("r", 198, last=True)
        await task
        assert [token for piece in taken.tokens for token in piece] == [504, 253, 198]

    run(scenario)


@pytest.mark.parametrize("stop", [None, "a longer stop string"])
@pytest.mark.parametrize(("kind", "tokens"), [(STREAM, [[504], [253]]), (WHOLE, [[504, 253]])])
def test_a_request_that_is_cancelled_is_aborted_and_counted(kind: RequestOutputKind, tokens: list[list[int]], stop: str | None) -> None:
    async def scenario() -> None:
        llm, taken = Llm(), Taken()
        task = start(llm, taken, kind, stop=stop)
        await begun()
        llm.sample("r", 504)
        llm.sample("r", 253)
        text = taken.text
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert llm.aborted == ["r"]
        assert taken.tokens == tokens
        if kind is STREAM:
            assert taken.text == text, "what was held back for a stop string does not come after all"
        assert not llm.output_processor.request_states

    run(scenario)


@pytest.mark.parametrize(("kind", "tokens"), [(STREAM, [[504], []]), (WHOLE, [[504]])])
def test_a_request_that_the_engine_drops_ends(kind: RequestOutputKind, tokens: list[list[int]]) -> None:
    async def scenario() -> None:
        llm, taken = Llm(), Taken()
        task = start(llm, taken, kind)
        await begun()
        llm.sample("r", 504)
        llm.drop("r")
        await task
        assert (taken.tokens, taken.reasons[-1]) == (tokens, "abort")
        assert llm.aborted == []

    run(scenario)


def test_a_request_that_is_cancelled_on_its_way_is_aborted() -> None:
    async def scenario() -> None:
        llm = Llm()
        task = start(llm, Taken(), STREAM)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert llm.aborted == ["r"]

    run(scenario)


def test_a_fault_of_who_takes_ends_that_request_alone() -> None:
    refused: list[Any] = []

    def refuse(response: Any) -> None:
        refused.append(response)
        raise ZeroDivisionError("taken badly")

    async def scenario() -> None:
        llm, taken = Llm(), Taken()
        bad, good = start(llm, refuse, STREAM, "bad"), start(llm, taken, STREAM, "good")
        await begun()
        for request_id in ("bad", "good", "bad"):
            llm.sample(request_id, 504)
        assert len(refused) == 1, "after a piece that is missing nothing leaves"
        with pytest.raises(ZeroDivisionError, match="taken badly"):
            await bad
        assert llm.aborted == ["bad"]
        llm.sample("good", 198, last=True)
        await good
        assert taken.tokens == [[504], [198]]

    run(scenario)


@pytest.mark.parametrize(
    ("fault", "raised", "aborted"),
    [(EngineDeadError(), EngineDeadError, []), (ValueError("in vLLM's own loop"), EngineGenerateError, ["r"])],
)
@pytest.mark.parametrize("kind", [STREAM, WHOLE])
def test_faults_of_vllm_end_the_request(fault: Exception, raised: type[Exception], aborted: list[str], kind: RequestOutputKind) -> None:
    async def scenario() -> None:
        llm, taken = Llm(), Taken()
        task = start(llm, taken, kind)
        await begun()
        llm.sample("r", 504)
        llm.sample("r", 253)
        llm.fail(fault)
        with pytest.raises(raised) as caught:
            await task
        assert fault in (caught.value, caught.value.__cause__)
        assert str(fault) in str(caught.value)
        assert llm.aborted == aborted
        assert [token for piece in taken.tokens for token in piece] == [504, 253], "counted all the same"
        assert not llm.output_processor.request_states

    run(scenario)


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        (EngineDeadError(), EngineDeadError),
        (VLLMValidationError("too long"), VLLMValidationError),
        (ValueError("no prompt"), EngineGenerateError),
    ],
)
def test_a_request_that_vllm_does_not_take(fault: Exception, raised: type[Exception]) -> None:
    async def scenario() -> None:
        llm = Llm()
        llm.fault = fault
        with pytest.raises(raised) as caught:
            await start(llm, Taken(), STREAM)
        assert fault in (caught.value, caught.value.__cause__)

    run(scenario)
