"""Errors: each ends its request with a code of the closed set, the same over both transports."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import patient_http
import pytest
from waiting import PATIENCE

from ananke_client import (
    AnankeError,
    AnankeInferenceClient,
    AnankeInferenceHTTPClient,
    ConstraintSpec,
    ConstraintTooLargeError,
    DeadEndError,
    DeadlineExceededError,
    ErrorCode,
    GenerationConfig,
    InvalidConstraintError,
    InvalidRequestError,
    UnsupportedConstraintError,
)
from ananke_server.launch import TritonServer

Client = AnankeInferenceClient | AnankeInferenceHTTPClient

# Each grammar has outputs, and both have a beginning in common.
DEAD_END = ConstraintSpec.all_of(
    ConstraintSpec.grammar('start: "x" part\npart: "(" part ")" | "a"'),
    ConstraintSpec.grammar('start: "x" part\npart: "[" part "]" | "b"'),
)


def faulty(client: Client, server: TritonServer) -> Client:
    if isinstance(client, AnankeInferenceClient):
        return AnankeInferenceClient(url=server.grpc_url, model_name="faulty", timeout=PATIENCE)
    return AnankeInferenceHTTPClient(url=f"http://{server.http_url}", model_name="faulty", timeout=PATIENCE)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_reaches_the_client(client: Client, server: TritonServer, code: ErrorCode) -> None:
    with faulty(client, server) as failing, pytest.raises(AnankeError) as raised:
        failing.generate(f"{code} something with [brackets] and\nlines")
    assert raised.value.code == code
    assert raised.value.message == "something with [brackets] and\nlines"


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_reaches_the_client_in_the_middle_of_a_stream(client: Client, server: TritonServer, code: ErrorCode) -> None:
    pieces = []
    with faulty(client, server) as failing, pytest.raises(AnankeError) as raised:
        pieces.extend(failing.generate_stream(f"{code} late"))
    assert raised.value.code == code


def test_an_unforeseen_fault_is_internal(client: Client, server: TritonServer) -> None:
    with faulty(client, server) as failing, pytest.raises(AnankeError, match="ZeroDivisionError") as raised:
        failing.generate("unforeseen")
    assert raised.value.code == "internal"


def test_a_long_error_arrives_cut(client: Client, server: TritonServer) -> None:
    with faulty(client, server) as failing, pytest.raises(InvalidRequestError) as raised:
        failing.generate("invalid_request " + "ä" * 20_000)
    assert 600 < len(raised.value.message) < 4_096


@pytest.mark.parametrize(
    ("constraint", "error", "words"),
    [
        ({"type": "regex", "pattern": "a("}, InvalidConstraintError, "/pattern:1:2: the group is not closed"),
        ({"type": "regex"}, InvalidConstraintError, "/pattern"),
        ({"type": "nonsense"}, InvalidConstraintError, "unknown type 'nonsense'"),
        ("{", InvalidConstraintError, "1:2: the constraint is not JSON"),
        ("", InvalidConstraintError, "not JSON"),
        ("null", InvalidConstraintError, "a JSON object"),
        ({"type": "json_schema", "schema": {"type": "array", "uniqueItems": True}}, UnsupportedConstraintError, "at /schema/uniqueItems"),
        (
            {
                "type": "composite",
                "mode": "sequence",
                "constraints": [{"type": "token_mask", "allowed": [5]}, {"type": "regex", "pattern": "a"}],
            },
            UnsupportedConstraintError,
            "at /constraints/0",
        ),
        ({"type": "composite", "mode": "all", "constraints": []}, InvalidConstraintError, "at /constraints"),
        ({"type": "json_schema", "schema": {"type": "array", "minItems": 10**9}}, ConstraintTooLargeError, "at /schema/minItems"),
    ],
)
def test_a_refused_constraint_says_where_and_why(client: Client, constraint: Any, error: type[AnankeError], words: str) -> None:
    with pytest.raises(error, match=words):
        client.generate("x", constraint)
    report = client.validate(constraint)
    assert not report.accepted
    assert report.errors


def test_validate_reports_an_accepted_constraint(client: Client) -> None:
    report = client.validate(ConstraintSpec.regex("[a-z]+"))
    assert (report.accepted, report.kind, report.guarantee, report.errors) == (True, "regex", "exact", [])


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"temperatur": 1}, "did you mean temperature"),
        ({"structured_outputs": {"regex": "a"}}, "send the constraint in the input"),
        ({"extra_args": {"ananke": [0, 0, "start: /.*/"]}}, "extra_args"),
        ({"n": 2}, "n must be 1"),
        ({"min_tokens": 5}, "min_tokens cannot be combined with a constraint"),
        ({"logit_bias": {"5": 100}}, "logit_bias cannot be combined"),
        ({"allowed_token_ids": [5]}, "allowed_token_ids cannot be combined"),
        ({"bad_words": ["a"]}, "bad_words cannot be combined"),
        ({"ignore_eos": True}, "ignore_eos cannot be combined"),
    ],
)
def test_a_refused_sampling_parameter_says_which(client: Client, extra: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        client.generate("x", ConstraintSpec.regex("[a-z]{3}"), GenerationConfig(extra=extra))


def test_a_failed_matcher_ends_as_dead_end(client: Client) -> None:
    with pytest.raises(DeadEndError):
        client.generate("x", DEAD_END)
    with pytest.raises(DeadEndError):
        list(client.generate_stream("x", DEAD_END))


def test_the_deadline_ends_a_generation(client: Client) -> None:
    with pytest.raises(DeadlineExceededError):
        client.generate("x", ConstraintSpec.regex("[0-9]{3000}"), GenerationConfig(max_tokens=3000), timeout=1.5)


def test_a_prompt_longer_than_the_context_is_refused(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="context"):
        client.generate("word " * 9000)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"constraint": "{}"}, "text_input is missing"),
        ({"text_input": ""}, "text_input is empty"),
        ({"text_input": "x", "constraints": '{"type": "regex", "pattern": "a"}'}, "did you mean constraint"),
        ({"text_input": "x", "guided_regex": "a"}, "unknown input or parameter 'guided_regex'"),
        ({"text_input": "x", "deadline_ms": "soon"}, "deadline_ms is a number"),
    ],
)
def test_a_faulty_body_says_what_is_wrong(server: TritonServer, body: dict[str, Any], words: str) -> None:
    answer = patient_http.post(f"http://{server.http_url}/v2/models/generate/generate", json=body)
    assert answer.status_code == 400
    assert "[invalid_request]" in answer.json()["error"]
    assert words in answer.json()["error"]


def test_a_thousand_failed_streams_do_not_end_the_server(server: TritonServer) -> None:
    """With the header ``triton_grpc_error`` they did."""

    def fail(index: int) -> None:
        with pytest.raises(InvalidRequestError):
            failing.generate(f"invalid_request {index}")

    with AnankeInferenceClient(url=server.grpc_url, model_name="faulty", timeout=PATIENCE) as failing, ThreadPoolExecutor(8) as pool:
        list(pool.map(fail, range(1000)))
    assert server.running


def test_malformed_chat_messages_are_refused(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="message 1 needs a text 'content'"):
        client.generate([{"role": "user", "content": "a"}, {"role": "user", "content": 5}])


def test_guided_vllm_has_no_way_around(server: TritonServer) -> None:
    """A forged grammar gains nothing: the constraint is compiled again, and without one the request is refused."""
    url = f"http://{server.http_url}/v2/models/guided_vllm/generate"
    forged = json.dumps({"constraint": None, "grammar": "start: /.*/", "report": {"accepted": True, "guarantee": "exact"}})
    with_constraint = {"text_input": "x", "compiled": "0" * 32 + forged, "constraint": '{"type": "regex", "pattern": "[0-9]{4}"}'}
    answer = patient_http.post(url, json=with_constraint)
    assert answer.status_code == 200
    assert len(answer.json()["text_output"]) == 4
    assert answer.json()["text_output"].isdigit()
    refused = patient_http.post(url, json={"text_input": "x", "compiled": "0" * 32 + forged})
    assert refused.status_code == 400
    assert "[invalid_request]" in refused.json()["error"]


def test_a_seal_does_not_fit_another_constraint(server: TritonServer) -> None:
    base = f"http://{server.http_url}/v2/models"

    def tensor(value: str) -> list[dict[str, Any]]:
        return [{"name": "constraint", "shape": [1], "datatype": "BYTES", "data": [value]}]

    loose, strict = '{"type": "regex", "pattern": "[a-z]+"}', '{"type": "regex", "pattern": "[0-9]{4}"}'
    answer = patient_http.post(f"{base}/validate/infer", json={"inputs": tensor(loose), "outputs": [{"name": "constraint_report"}]})
    assert json.loads(answer.json()["outputs"][0]["data"][0])["accepted"]
    answer = patient_http.post(f"{base}/guided_vllm/generate", json={"text_input": "x", "constraint": strict})
    assert answer.json()["text_output"].isdigit()


def test_invalid_utf8_is_refused(server: TritonServer) -> None:
    with AnankeInferenceClient(url=server.grpc_url) as client:
        assert client.health_check().ready
    body = {
        "inputs": [{"name": "constraint", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}}],
        "outputs": [{"name": "constraint_report", "parameters": {"binary_data": False}}],
    }
    header = json.dumps(body).encode()
    answer = patient_http.post(
        f"http://{server.http_url}/v2/models/validate/infer",
        content=header + (2).to_bytes(4, "little") + b"\xff\xfe",
        headers={"Inference-Header-Content-Length": str(len(header))},
    )
    report = json.loads(answer.json()["outputs"][0]["data"][0])
    assert report["errors"][0]["code"] == "invalid_constraint"
    assert "UTF-8" in report["errors"][0]["message"]
