"""The ``validate`` model with a compiler that is held: whose turn it is, what waits too long, and what is more than it takes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import backend_support  # noqa: F401  (before what imports Triton's module)
import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from backend_support import Sender
from waiting import wait_until

from ananke_client.report import ConstraintReport
from ananke_server.constraints import CompiledConstraint
from ananke_server.constraints.cache import CacheCounts
from ananke_server.handover import Seal
from ananke_server.triton import validate

PENDING = 6
WAIT = 30.0


class HeldCompiler:
    """Compiles nothing before it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.asked: list[tuple[str, str]] = []
        self.counts, self.killed = CacheCounts(), 0

    def start(self) -> None:
        pass

    close = start

    def compile(self, text: str, client: str) -> CompiledConstraint:
        self.asked.append((text, client))
        assert self.let_go.wait(WAIT)
        return CompiledConstraint(ConstraintReport(accepted=True), text)


class Request:
    """A request as Triton hands it over."""

    def __init__(self, text: str, **parameters: Any) -> None:
        self.text, self._parameters, self.sender = text, json.dumps(parameters), Sender()

    def parameters(self) -> str:
        return self._parameters

    def requested_output_names(self) -> list[str]:
        return ["constraint_report"]

    def request_id(self) -> str:
        return ""

    def get_response_sender(self) -> Sender:
        return self.sender

    def codes(self) -> list[str]:
        """Why it was refused, once it was answered."""
        assert self.sender.final.wait(WAIT)
        [response] = self.sender.taken
        return [error["code"] for error in json.loads(response["constraint_report"])["errors"]]


@pytest.fixture
def compiler() -> HeldCompiler:
    return HeldCompiler()


@pytest.fixture
def model(compiler: HeldCompiler, monkeypatch: pytest.MonkeyPatch) -> Iterator[validate.TritonPythonModel]:
    """One with two places, before which six requests may wait."""

    def tensor(request: Request, name: str) -> Any:
        return SimpleNamespace(as_numpy=lambda: np.array([request.text.encode()], dtype=np.object_))

    monkeypatch.setattr(pb_utils, "get_input_tensor_by_name", tensor, raising=False)
    monkeypatch.setenv("ANANKE_MAX_PENDING", str(PENDING))
    monkeypatch.setattr(validate, "make_compiler", lambda _: compiler)
    monkeypatch.setattr(validate, "_THREADS", 2)
    monkeypatch.setattr(validate.Seal, "shared", lambda: Seal(b"s" * 32))
    made = validate.TritonPythonModel()
    made.initialize({})
    yield made
    compiler.let_go.set()
    made.finalize()


def running(model: validate.TritonPythonModel, count: int) -> None:
    wait_until(lambda: model._running == count, WAIT, every=0.005)


def test_clients_have_their_turns(model: validate.TritonPythonModel, compiler: HeldCompiler) -> None:
    requests = [Request(f"flood {number}", client_id="flood") for number in range(5)] + [Request("single", client_id="other")]
    for request in requests:
        assert model.execute([request]) is None
    running(model, 6)
    compiler.let_go.set()
    assert [request.codes() for request in requests] == [[]] * 6
    assert compiler.asked.index(("single", "other")) == 2, "after the two that had begun"


def test_what_waits_beyond_its_deadline_is_told_so_and_compiled_for_nobody(
    model: validate.TritonPythonModel, compiler: HeldCompiler
) -> None:
    for number in range(2):
        model.execute([Request(str(number), deadline_ms=1)])
    running(model, 2)
    late = Request("late", deadline_ms=50)
    model.execute([late])
    assert late.codes() == ["deadline_exceeded"]
    running(model, 2)
    compiler.let_go.set()
    running(model, 0)
    assert ("late", "") not in compiler.asked
    again = Request("late")
    model.execute([again])
    assert again.codes() == [], "the refusal was for that request alone"


def test_more_than_may_wait_is_overload_of_the_client_that_has_most(model: validate.TritonPythonModel, compiler: HeldCompiler) -> None:
    flood = [Request(f"flood {number}", client_id="flood") for number in range(2 + PENDING)]
    for request in flood:
        model.execute([request])
    running(model, 2 + PENDING)
    too_many = Request("too many", client_id="flood")
    model.execute([too_many])
    assert too_many.codes() == ["overloaded"]
    single = Request("single", client_id="other")
    model.execute([single])
    assert flood.pop().codes() == ["overloaded"]
    compiler.let_go.set()
    assert [request.codes() for request in (*flood, single)] == [[]] * (2 + PENDING)


def test_a_deadline_that_is_none_is_refused(model: validate.TritonPythonModel) -> None:
    [response] = model.execute([Request("text", deadline_ms="soon")]) or []
    assert "deadline_ms" in str(response.error)
