"""Plain infer with tritonclient, as those call who do not stream: the model generate_once, over gRPC and HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, Self

import numpy as np
import patient_http
import pytest
import tritonclient.grpc
import tritonclient.http
from cases import CASES
from running_requests import LONG, LONG_CONFIG, comes_to
from server_metrics import settled, totals
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE, SOON, wait_until

from ananke_client import AnankeInferenceClient, ConstraintSpec, GenerationConfig
from ananke_server.launch import TritonServer

MODEL = "generate_once"
LASTING = {"text_input": "x", "constraint": LONG.to_json(), "sampling_parameters": json.dumps({"max_tokens": LONG_CONFIG.max_tokens})}
# What Triton makes of a gRPC status over HTTP.
HTTP_STATUS = {"INVALID_ARGUMENT": "400", "INTERNAL": "500", "CANCELLED": "400"}


class Plain:
    """tritonclient over one transport; over HTTP it belongs to the thread that made it."""

    def __init__(self, transport: str, server: TritonServer) -> None:
        self.transport = transport
        self.module: ModuleType = getattr(tritonclient, transport)
        options = {"network_timeout": 120.0} if transport == "http" else {}
        url = server.http_url if transport == "http" else server.grpc_url
        self.client = self.module.InferenceServerClient(url, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def infer(self, inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        """The outputs by name, each its one element."""
        tensors = []
        for name, value in inputs.items():
            kind, array = ("BOOL", np.array([value])) if isinstance(value, bool) else ("BYTES", np.array([value.encode()], dtype=object))
            tensor = self.module.InferInput(name, [1], kind)
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        result = self.client.infer(MODEL, tensors, **options)
        answer = result.get_response()
        outputs = answer["outputs"] if self.transport == "http" else [{"name": output.name} for output in answer.outputs]
        return {output["name"]: result.as_numpy(output["name"])[0] for output in outputs}

    def refusal(self, inputs: dict[str, Any], **options: Any) -> tuple[str, str]:
        """The status, as HTTP counts them, and the text of the error."""
        with pytest.raises(InferenceServerException) as raised:
            self.infer(inputs, **options)
        status = str(raised.value.status()).removeprefix("StatusCode.")
        return HTTP_STATUS.get(status, status), str(raised.value.message())


@pytest.fixture(scope="module", params=["grpc", "http"])
def plain(request: pytest.FixtureRequest, server: TritonServer) -> Iterator[Plain]:
    with Plain(request.param, server) as made:
        yield made


def test_one_response_with_everything(plain: Plain, grpc_client: AnankeInferenceClient) -> None:
    constraint = ConstraintSpec.regex("[0-9]{4}-[0-9]{2}")
    sampling = {"max_tokens": 20, "seed": 7, "temperature": 0, "logprobs": 1}
    outputs = plain.infer(
        {
            **{"text_input": "A month: ", "constraint": constraint.to_json(), "sampling_parameters": json.dumps(sampling)},
            **dict.fromkeys(("return_finish_reason", "return_num_input_tokens", "return_num_output_tokens"), True),
            **dict.fromkeys(("return_logprobs", "return_cumulative_logprob"), True),
            "stream": False,
        }
    )
    streamed = grpc_client.generate("A month: ", constraint, GenerationConfig(max_tokens=20, seed=7, temperature=0))
    assert outputs["text_output"].decode() == streamed.text
    assert outputs["finish_reason"] == b"stop"
    assert (outputs["num_input_tokens"], outputs["num_output_tokens"]) == (
        streamed.usage.prompt_tokens,
        streamed.usage.completion_tokens,
    )
    assert outputs["cumulative_logprob"] < 0
    assert len(json.loads(outputs["logprobs"])) == streamed.usage.completion_tokens
    assert json.loads(outputs["constraint_report"])["constraint_satisfied"] is True
    assert json.loads(outputs["provenance"])["signatures"], "as the ensemble's, the statement is signed"
    assert json.loads(outputs["metrics"])["mask"]["steps"] >= 7


def test_sixteen_at_once(plain: Plain, server: TritonServer) -> None:
    """All right, and together in a fraction of the time that one after the other would take."""

    def one(number: int) -> tuple[float, bool]:
        case = CASES[number % len(CASES)]
        sampling = json.dumps({"max_tokens": case.max_tokens, "temperature": 1.0, "seed": number})
        with Plain(plain.transport, server) as own:
            begin = time.monotonic()
            outputs = own.infer({"text_input": case.prompt, "constraint": case.constraint.to_json(), "sampling_parameters": sampling})
            seconds = time.monotonic() - begin
        satisfied = json.loads(outputs["constraint_report"])["constraint_satisfied"]
        assert case.judge(outputs["text_output"].decode()) or not satisfied
        return seconds, satisfied

    begin = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(one, range(16)))
    assert time.monotonic() - begin < sum(seconds for seconds, _ in done) / 3
    assert sum(satisfied for _, satisfied in done) >= 12


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ({"text_input": "x", "constraint": '{"type": "regex", "pattern": "a("}'}, "[invalid_constraint] at /pattern:1:2: the group is not"),
        ({"text_input": "x", "sampling_parameters": '{"temperatur": 1}'}, "[invalid_request] "),
        ({"text_input": "x", "stream": True}, "[invalid_request] generate_once gives one response"),
        ({"constraint": "{}"}, "[invalid_request] text_input is missing"),
    ],
)
def test_a_refusal_is_typed(plain: Plain, inputs: dict[str, Any], error: str) -> None:
    status, text = plain.refusal(inputs)
    assert status == "400"
    assert text.startswith(error)


def test_what_it_refuses_by_itself_is_counted_too(plain: Plain, server: TritonServer) -> None:
    name = 'ananke_requests_total{kind="unknown",outcome="invalid_request"}'
    before = settled(server).get(name, 0)
    for _ in range(3):
        plain.refusal({"text_input": "x", "stream": True})
    wait_until(lambda: totals(server).get(name, 0) > before)
    assert settled(server)[name] == before + 3


def test_parameters_are_checked_as_for_the_ensemble(plain: Plain) -> None:
    assert "unknown input or parameter 'deadlin_ms'; did you mean deadline_ms?" in plain.refusal(LASTING, parameters={"deadlin_ms": 5})[1]
    assert "cancel is a command to guided_vllm" in plain.refusal({}, parameters={"cancel": "x"})[1]


def test_the_deadline_ends_it(plain: Plain, server: TritonServer) -> None:
    status, text = plain.refusal(LASTING, parameters={"deadline_ms": 500})
    assert (status, text[:19]) == ("500", "[deadline_exceeded]")
    assert comes_to(server, 0, SOON)


@pytest.mark.parametrize("by", ["request_id", "attempt_id"])
def test_it_can_be_cancelled_by_name(plain: Plain, server: TritonServer, grpc_client: AnankeInferenceClient, by: str) -> None:
    def call() -> tuple[str, str]:
        with Plain(plain.transport, server) as own:
            return own.refusal(LASTING, **({"request_id": "mine"} if by == "request_id" else {"parameters": {"attempt_id": "mine"}}))

    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(call)
        assert comes_to(server, 1)
        assert grpc_client.cancel("mine") is True
        assert comes_to(server, 0, SOON)
        status, text = refused.result(PATIENCE)
    assert (status, text) == ("400", "[cancelled] the caller cancelled the request")


def test_a_grpc_client_that_goes_away_ends_its_generation(server: TritonServer) -> None:
    """Which the ensemble would not: Triton does not tell its steps."""
    with Plain("grpc", server) as plain:
        for _ in range(3):
            status, _ = plain.refusal(LASTING, client_timeout=1.0)
            assert status == "DEADLINE_EXCEEDED"
            assert comes_to(server, 0, SOON)


def test_the_generate_extension(server: TritonServer) -> None:
    url = f"http://{server.http_url}/v2/models/{MODEL}"
    body = {"text_input": "x", "constraint": ConstraintSpec.regex("[0-9]{5}").to_json(), "return_finish_reason": True}
    answer = patient_http.post(f"{url}/generate", json=body).json()
    assert (answer["text_output"].isdigit(), len(answer["text_output"]), answer["finish_reason"]) == (True, 5, "stop")
    refused = patient_http.post(f"{url}/generate", json=body | {"constraints": "{}"})
    assert (refused.status_code, refused.json()["error"]) == (400, refused.json()["error"])
    assert "did you mean constraint" in refused.json()["error"]


def test_our_clients_call_it_too(server: TritonServer) -> None:
    with AnankeInferenceClient(url=server.grpc_url, model_name=MODEL, timeout=60) as client:
        assert client.health_check().models[MODEL] is True
        result = client.generate("A digit: ", ConstraintSpec.regex("[0-9]"), GenerationConfig(max_tokens=5, seed=1))
        assert (len(result.text), result.constraint_satisfied) == (1, True)


def test_it_has_the_ensembles_inputs_and_outputs_and_is_not_decoupled(server: TritonServer) -> None:
    models = f"http://{server.http_url}/v2/models"
    once, ensemble = (patient_http.get(f"{models}/{model}").json() for model in (MODEL, "generate"))
    assert (once["inputs"], once["outputs"]) == (ensemble["inputs"], ensemble["outputs"])
    once, relay, engine = (patient_http.get(f"{models}/{model}/config").json() for model in (MODEL, "guided_relay", "guided_vllm"))
    assert [each.get("model_transaction_policy") for each in (once, relay, engine)] == [None, {"decoupled": True}, {"decoupled": True}]
    assert relay["input"] == engine["input"]
    of_commands = ("running", "status")
    assert relay["output"] == [output for output in engine["output"] if output["name"] not in of_commands]
