"""The model generate_once in this process: what it refuses itself is answered and counted, as guided_vllm counts what it refuses."""

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
from ananke_server.triton.generate_once import TritonPythonModel

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


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[TritonPythonModel]:
    monkeypatch.setattr(pb_utils, "get_input_tensor_by_name", _input, raising=False)
    monkeypatch.setattr(counters, "_SECONDS_BETWEEN_REPORTS", 0.01)
    logger = logging.getLogger(LOGGER)
    before = logger.handlers, logger.level, logger.propagate
    made = TritonPythonModel()
    made.initialize({})
    yield made
    made.finalize()
    logger.handlers, logger.level, logger.propagate = before


def counted(model: TritonPythonModel) -> dict[tuple[str, str], float]:
    family = model._refused._counters._families[REQUESTS]
    return {(metric.labels["kind"], metric.labels["outcome"]): metric.total for metric in family.metrics}


def test_requests_that_it_cannot_take_are_answered_and_counted(model: TritonPythonModel) -> None:
    refused = [
        Request(),
        Request(text_input="x", stream=True),
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
