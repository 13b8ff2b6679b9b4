"""The models generate_once and guided_relay in this process: what they refuse is answered and counted, as guided_vllm counts it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import backend_support as triton
import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from waiting import PATIENCE, wait_until

from ananke_server.logs import LOGGER
from ananke_server.triton import counters
from ananke_server.triton.relayed import TritonPythonModel

REQUESTS = "ananke_requests_total"


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
    monkeypatch.setattr(counters, "_SECONDS_BETWEEN_REPORTS", 0.01)
    logger = logging.getLogger(LOGGER)
    before = logger.handlers, logger.level, logger.propagate
    made = TritonPythonModel()
    made.initialize({"model_config": json.dumps({"model_transaction_policy": {"decoupled": True}} if streams else {})})
    yield made
    made.finalize()
    logger.handlers, logger.level, logger.propagate = before


def counted(model: TritonPythonModel) -> dict[tuple[str, str], float]:
    family = model._metrics._counters._families[REQUESTS]
    return {(metric.labels["kind"], metric.labels["outcome"]): metric.total for metric in family.metrics}


def test_requests_that_it_cannot_take_are_answered_and_counted(model: TritonPythonModel, streams: bool) -> None:
    refused = [
        Request(),
        Request(text_input="x", stream=not streams, parameters={"leas_ms": 5} if streams else {}),
        Request(text_input="x", parameters={"deadlin_ms": 5}),
        Request(parameters={"cancel": "x"}),
        Request(text_input="x", constraint=b"\xff"),
    ]
    model.execute(refused)
    for request in refused:
        assert request.sender.final.wait(PATIENCE)
        assert request.sender.taken[0].error is not None
    wait_until(lambda: sum(counted(model).values()) >= len(refused), 5)
    assert counted(model) == {("unknown", "invalid_request"): 4, ("unknown", "invalid_constraint"): 1}


def test_without_an_engine_a_request_fails_by_name_and_its_response_is_counted(model: TritonPythonModel, streams: bool) -> None:
    request = Request(text_input="x", stream=streams)
    model.execute([request])
    assert request.sender.final.wait(PATIENCE)
    assert "[engine_unavailable] guided_vllm, where the engine is, cannot be reached" in str(request.sender.taken[0].error)
    wait_until(lambda: counted(model) == {("unknown", "engine_unavailable"): 1}, 5)
    wait_until(lambda: sum(metric.total for metric in model._metrics._counters._families["ananke_responses_total"].metrics) == 1, 5)
