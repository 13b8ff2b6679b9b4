"""How output tensors become a result."""

import json

import pytest

from ananke_client import (
    ConstraintReport,
    ConstraintSpec,
    DeadlineExceededError,
    EngineUnavailableError,
    InternalError,
    InvalidConstraintError,
    InvalidRequestError,
    OverloadedError,
)
from ananke_client.provenance import Envelope
from ananke_client.report import Diagnostic
from ananke_client.request import GenerationRequest
from ananke_client.response import ResponseAssembler, refusal, validation_report

REPORT = {"accepted": True, "kind": "regex", "guarantee": "exact", "constraint_satisfied": False, "unsatisfied_reason": "length"}
FINAL = {
    "text_output": "c",
    "finish_reason": "length",
    "num_input_tokens": 3,
    "num_output_tokens": 0,
    "constraint_report": json.dumps(REPORT),
    "provenance": Envelope.of({"key": 1}).to_bytes().decode(),
    "metrics": '{"ttft_ms": 2.5}',
}

DEEP = "[" * 100_000


def assembler(constraint="{}"):
    return ResponseAssembler(GenerationRequest.of("hi", constraint, None, stream=True, timeout=1, request_id="r"))


def without(*names):
    return {name: value for name, value in FINAL.items() if name not in names}


def test_deltas_are_joined():
    responses = assembler()
    assert [responses.add(outputs) for outputs in ({"text_output": "a"}, {}, {"text_output": "b"}, FINAL)] == ["a", "", "b", "c"]
    result = responses.result()
    assert (result.text, result.finish_reason, result.request_id) == ("abc", "length", "r")
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (3, 0)
    assert (result.constraint_satisfied, result.guarantee) == (False, "exact")
    assert result.report == ConstraintReport.model_validate(REPORT)
    assert (result.provenance, result.metrics, result.cumulative_logprob) == ({"key": 1}, {"ttft_ms": 2.5}, None)


def test_a_result_has_prompt_and_constraint_as_they_were_sent():
    chat = [{"role": "user", "content": "é"}]
    request = GenerationRequest.of(chat, ConstraintSpec.choice("a"), None, stream=True, timeout=1, request_id="r")
    responses = ResponseAssembler(request)
    responses.add(FINAL)
    result = responses.result()
    assert (result.text_input, result.constraint) == (request.tensors()["text_input"], request.tensors()["constraint"])
    assert "text_input" not in repr(result)
    assert "choices" not in repr(result)
    assert result == responses.result()


def test_output_tokens_are_counted_over_all_responses():
    responses = assembler()
    responses.add({"text_output": "a", "num_output_tokens": 2})
    responses.add({**FINAL, "num_output_tokens": 3})
    assert responses.result().usage.completion_tokens == 5


def test_an_unconstrained_result_claims_nothing():
    responses = assembler(constraint=None)
    responses.add({**without("constraint_report", "provenance", "metrics"), "cumulative_logprob": -1.5})
    result = responses.result()
    assert (result.constraint_satisfied, result.guarantee, result.report) == (None, "none", None)
    assert (result.provenance, result.metrics, result.cumulative_logprob) == ({}, {}, -1.5)


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        (without("constraint_report"), "nothing says that the constraint was enforced"),
        (without("num_input_tokens"), "num_input_tokens"),
        ({**FINAL, "constraint_report": "{"}, "constraint_report is malformed"),
        ({**FINAL, "provenance": "{"}, "provenance is malformed"),
        ({**FINAL, "metrics": "[]"}, "metrics is malformed"),
        ({**FINAL, "metrics": DEEP}, "metrics is malformed"),
        ({**FINAL, "provenance": DEEP}, "provenance is malformed"),
        ({**FINAL, "constraint_report": DEEP}, "constraint_report is malformed"),
        ({**FINAL, "num_input_tokens": "abc"}, "num_input_tokens is malformed: 'abc'"),
        ({**FINAL, "cumulative_logprob": "abc"}, "cumulative_logprob is malformed: 'abc'"),
    ],
)
def test_a_faulty_end_is_an_error(outputs, reason):
    responses = assembler()
    responses.add(outputs)
    with pytest.raises(InternalError, match=reason):
        responses.result()


def test_a_call_without_a_final_response_was_broken_off():
    responses = assembler()
    responses.add({"text_output": "a"})
    with pytest.raises(EngineUnavailableError, match="without a final response"):
        responses.result()


@pytest.mark.parametrize("count", ["abc", 1.5, float("inf")])
def test_a_count_that_is_none_is_an_error(count):
    with pytest.raises(InternalError, match="num_output_tokens is malformed"):
        assembler().add({"text_output": "a", "num_output_tokens": count})


def test_nothing_comes_after_the_final_response():
    responses = assembler()
    responses.add(FINAL)
    assert responses.add({}) == ""
    with pytest.raises(InternalError, match="after the final"):
        responses.add({"text_output": "late"})


def test_refusal_is_a_report_only_for_a_constraint():
    report = refusal(InvalidConstraintError("bad"))
    assert (report.accepted, str(report.errors[0])) == (False, "[invalid_constraint] bad")
    with pytest.raises(InvalidRequestError):
        refusal(InvalidRequestError("no such model"))


def test_a_report_that_is_not_about_the_constraint_is_an_error():
    def text(code):
        return ConstraintReport(accepted=False, errors=[Diagnostic(code=code, message="it says why; try again in 2.0 s")]).model_dump_json()

    assert not validation_report(text("constraint_too_large")).accepted
    assert not validation_report(text("a_code_of_tomorrow")).accepted
    with pytest.raises(OverloadedError) as overloaded:
        validation_report(text("overloaded"))
    assert overloaded.value.retry_after == 2.0
    for code, error in (("deadline_exceeded", DeadlineExceededError), ("internal", InternalError)):
        with pytest.raises(error):
            validation_report(text(code))
