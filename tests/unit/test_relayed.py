"""The models generate_once and guided_relay in this process: what they refuse is answered and counted, as guided_vllm counts it."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import backend_support as triton
import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from waiting import PATIENCE, wait_until

from ananke_client.errors import DeadEndError
from ananke_client.report import ConstraintReport
from ananke_server.engine.request import Delta, GenerateRequest, GenerateResult
from ananke_server.logs import LOGGER
from ananke_server.triton import counters, relayed
from ananke_server.triton.relay import relay_path
from ananke_server.triton.relay_server import RelayedResponses, RelayServer
from ananke_server.triton.relayed import TritonPythonModel

REQUESTS = "ananke_requests_total"
MOST_PROMPT_BYTES = 1000
REPORT = ConstraintReport(accepted=True, kind="none", guarantee="none")
RESULT = GenerateResult("stop", 3, None, REPORT, b"{}", {})


class Request:
    """A request as Triton hands it over."""

    def __init__(self, parameters: dict[str, Any] | None = None, **inputs: Any) -> None:
        self.sender = triton.Sender()
        self.inputs = inputs
        self._parameters = parameters or {}

    def get_response_sender(self) -> triton.Sender:
        return self.sender

    def requested_output_names(self) -> list[str]:
        return ["text_output"]

    def request_id(self) -> str:
        return "mine"

    def parameters(self) -> str:
        return json.dumps(self._parameters)


def _input(request: Request, name: str) -> Any:
    return SimpleNamespace(as_numpy=lambda: np.array([request.inputs[name]])) if name in request.inputs else None


@pytest.fixture(params=[False, True], ids=["generate_once", "guided_relay"])
def streams(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, streams: bool) -> Iterator[TritonPythonModel]:
    monkeypatch.setattr(pb_utils, "get_input_tensor_by_name", _input, raising=False)
    monkeypatch.setenv("ANANKE_MAX_PROMPT_BYTES", str(MOST_PROMPT_BYTES))
    monkeypatch.setattr(counters, "_SECONDS_BETWEEN_REPORTS", 0.01)
    logger = logging.getLogger(LOGGER)
    before = logger.handlers, logger.level, logger.propagate
    made = TritonPythonModel()
    made.initialize({"model_config": json.dumps({"model_transaction_policy": {"decoupled": True}} if streams else {})})
    yield made
    made.finalize()
    logger.handlers, logger.level, logger.propagate = before


class Engine:
    """The other end of the relay, on an event loop of its own: what is called stands still until it is told to go on."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.begun, self.gone = threading.Event(), threading.Event()
        self.go_on = asyncio.Event()
        self.server = RelayServer(relay_path(), self.answer)
        self.run(self.server.start())

    async def answer(self, request: GenerateRequest, responses: RelayedResponses) -> None:
        self.begun.set()
        responses.add(Delta("a", 1))
        with responses.over(self.gone.set):
            await self.go_on.wait()
        responses.add(Delta("b", 1))
        if request.prompt == "fail":
            responses.fail(DeadEndError("nothing can follow"))
        else:
            responses.finish(RESULT)

    def finish(self) -> None:
        self.loop.call_soon_threadsafe(self.go_on.set)

    def run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def end(self) -> None:
        self.finish()
        self.run(self.server.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.end()


def counted(model: TritonPythonModel) -> dict[tuple[str, str], float]:
    family = model._metrics._counters._families[REQUESTS]
    return {(metric.labels["kind"], metric.labels["outcome"]): metric.total for metric in family.metrics}


def test_requests_that_it_cannot_take_are_answered_and_counted(model: TritonPythonModel, streams: bool) -> None:
    refused = [
        Request(),
        Request(text_input="x" * (MOST_PROMPT_BYTES + 1)) if streams else Request(text_input="x", stream=True),
        Request(text_input="x", parameters={"deadlin_ms": 5}),
        Request(parameters={"cancel": "x"}),
        Request(text_input="x", constraint=b"\xff"),
    ]
    model.execute(refused)
    for request in refused:
        assert request.sender.final.wait(PATIENCE)
        assert request.sender.taken[0].error is not None
    wait_until(lambda: sum(counted(model).values()) >= len(refused))
    assert counted(model) == {("unknown", "invalid_request"): 4, ("unknown", "invalid_constraint"): 1}


def test_text_and_result_arrive_and_a_stream_has_its_pieces_before(model: TritonPythonModel, engine: Engine, streams: bool) -> None:
    request = Request(text_input="x", stream=streams)
    model.execute([request])
    assert engine.begun.wait(PATIENCE)
    if streams:
        wait_until(lambda: request.sender.text == "a", PATIENCE)
    assert not request.sender.final.is_set()
    engine.finish()
    assert request.sender.final.wait(PATIENCE)
    assert request.sender.text == "ab"
    assert request.sender.taken[-1].error is None
    assert counted(model) == {}, "the engine counts it"


def test_an_error_of_the_engine_keeps_its_code_and_is_counted_there(model: TritonPythonModel, engine: Engine, streams: bool) -> None:
    request = Request(text_input="fail", stream=streams)
    engine.finish()
    model.execute([request])
    assert request.sender.final.wait(PATIENCE)
    assert "[dead_end] nothing can follow" in str(request.sender.taken[-1].error)
    assert counted(model) == {}


def test_a_request_whose_client_has_gone_is_cancelled_in_the_engine(model: TritonPythonModel, engine: Engine, streams: bool) -> None:
    request = Request(text_input="x", stream=streams)
    model.execute([request])
    assert engine.begun.wait(PATIENCE)
    request.sender.cancelled = True
    assert engine.gone.wait(PATIENCE)
    assert request.sender.final.wait(PATIENCE)
    assert "[cancelled]" in str(request.sender.taken[-1].error)
    assert counted(model) == {}


def test_the_end_waits_for_what_is_under_way_and_then_cancels_it(
    model: TritonPythonModel, engine: Engine, streams: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relayed, "DRAIN_SECONDS", 0.5)
    request = Request(text_input="x", stream=streams)
    model.execute([request])
    assert engine.begun.wait(PATIENCE)
    begun = time.monotonic()
    asyncio.run_coroutine_threadsafe(model._drain(), model._loop).result(PATIENCE)
    assert time.monotonic() - begun > 0.4
    assert request.sender.final.wait(PATIENCE)
    assert "[cancelled] the server is shutting down" in str(request.sender.taken[-1].error)
    assert engine.gone.wait(PATIENCE)
    assert counted(model) == {}


def test_without_an_engine_a_request_fails_by_name_and_its_response_is_counted(model: TritonPythonModel, streams: bool) -> None:
    request = Request(text_input="x", stream=streams)
    model.execute([request])
    assert request.sender.final.wait(PATIENCE)
    assert "[engine_unavailable] guided_vllm, where the engine is, cannot be reached" in str(request.sender.taken[0].error)
    wait_until(lambda: counted(model) == {("unknown", "engine_unavailable"): 1})
    wait_until(lambda: sum(metric.total for metric in model._metrics._counters._families["ananke_responses_total"].metrics) == 1)
