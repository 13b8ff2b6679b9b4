"""Outputs: a response has those that its request takes, and no others, which Triton would free behind Python's back."""

from __future__ import annotations

from itertools import chain, combinations
from types import SimpleNamespace
from typing import Any

import backend_support  # noqa: F401  (before what imports Triton's module)
import numpy as np
import pytest
import triton_python_backend_utils as pb_utils

from ananke_client.errors import InvalidRequestError
from ananke_client.report import ConstraintReport
from ananke_server.engine.request import Delta, GenerateResult
from ananke_server.triton import validate
from ananke_server.triton.codec import encode_answer, encode_delta, encode_result, outputs_of

PLAIN = ("text_output", "constraint_report", "provenance", "metrics")
FLAGGED = ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")
RESULT = GenerateResult("stop", 3, -1.5, ConstraintReport(accepted=True), "{}", {})


class Request:
    """A request as Triton hands it over: what it takes, and its flags."""

    def __init__(self, taken: tuple[str, ...], **flags: Any) -> None:
        self.taken, self.flags = taken, flags

    def requested_output_names(self) -> list[str]:
        return list(self.taken)


def _input(request: Request, name: str) -> Any:
    return SimpleNamespace(as_numpy=lambda: np.array(request.flags[name]).reshape(-1)) if name in request.flags else None


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pb_utils, "get_input_tensor_by_name", _input, raising=False)


def names(response: Any) -> set[str]:
    return {tensor.name for tensor in response.output_tensors}


def subsets(whole: tuple[str, ...]) -> list[frozenset[str]]:
    return [frozenset(part) for part in chain.from_iterable(combinations(whole, size) for size in range(len(whole) + 1))]


def test_outputs_are_what_is_taken_without_what_no_flag_asks_for() -> None:
    assert outputs_of(Request((*PLAIN, *FLAGGED, "status"))) == {*PLAIN, "status"}
    assert outputs_of(Request((*PLAIN, *FLAGGED), return_logprobs=True, return_finish_reason=False)) == {*PLAIN, "logprobs"}
    assert outputs_of(Request(("metrics", "logprobs"), return_logprobs=True, return_finish_reason=True)) == {"metrics", "logprobs"}
    with pytest.raises(InvalidRequestError, match="return_logprobs has 2 elements"):
        outputs_of(Request(PLAIN, return_logprobs=[True, True]))


def test_a_response_has_its_outputs_and_no_others() -> None:
    delta = Delta("a", 1, [{"7": {"logprob": -1.0}}])
    for outputs in subsets((*PLAIN, *FLAGGED)):
        assert names(encode_delta(delta, outputs)) == outputs & {"text_output", "logprobs", "num_output_tokens"}
        assert names(encode_result(delta, RESULT, outputs)) == outputs


def test_an_answer_to_a_command_too() -> None:
    for outputs in subsets(("running", "status", "metrics")):
        assert names(encode_answer(True, outputs)) == outputs & {"running"}
        assert names(encode_answer("{}", outputs)) == outputs & {"status"}


@pytest.mark.parametrize("taken", [("constraint_report", "compiled"), ("constraint_report",), ("compiled",)])
def test_validate_sends_what_is_taken(taken: tuple[str, ...]) -> None:
    answer = validate.Answer(np.array([b"{}"], dtype=np.object_), np.array([b"sealed"], dtype=np.object_), None)
    assert names(validate._response(Request(taken), answer)) == set(taken)
