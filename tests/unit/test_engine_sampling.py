"""Sampling parameters: vLLM's names and ranges, and nothing that fights a constraint's mask."""

from __future__ import annotations

import json

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ananke_client.errors import InvalidRequestError
from ananke_server.settings import Settings

vllm = pytest.importorskip("vllm")

from vllm import SamplingParams  # noqa: E402
from vllm.sampling_params import RequestOutputKind  # noqa: E402

from ananke_server.engine.sampling import FIGHTS_A_MASK, SUPPORTED, sampling_params  # noqa: E402

DEFAULTS = Settings.model_validate(
    {"model": "m", "default_max_tokens": 100, "default_temperature": 0.7, "default_top_p": 0.9, "default_top_k": 40}
)
LARGEST_SEED = 2**63 - 1


def parameters(given: object, *, constrained: bool = False, context_left: int = 1000) -> SamplingParams:
    text = given if isinstance(given, str | None) else json.dumps(given)
    return sampling_params(text, DEFAULTS, constrained=constrained, context_left=context_left)


def refusal(given: object, *, constrained: bool = False) -> str:
    with pytest.raises(InvalidRequestError) as refused:
        parameters(given, constrained=constrained)
    assert refused.value.message.startswith("sampling_parameters")
    return refused.value.message


# Defaults.


@pytest.mark.parametrize("nothing", [None, "", "{}", '{"temperature": null, "stop": null, "max_tokens": null, "seed": null}'])
def test_defaults_come_from_the_settings(nothing: str | None) -> None:
    made = parameters(nothing)
    assert (made.max_tokens, made.temperature, made.top_p, made.top_k) == (100, 0.7, 0.9, 40)
    assert made.output_kind is RequestOutputKind.DELTA


@pytest.mark.parametrize(("context_left", "bound"), [(1, 1), (99, 99), (100, 100), (101, 100)])
def test_the_default_max_tokens_stays_within_the_context(context_left: int, bound: int) -> None:
    assert parameters(None, context_left=context_left).max_tokens == bound


def test_a_given_value_stands() -> None:
    wanted = {
        "max_tokens": 7,
        "temperature": 0.2,
        "top_p": 0.5,
        "top_k": -1,
        "min_p": 0.1,
        "stop": ["x"],
        "presence_penalty": -2,
        "logprobs": 3,
    }
    made = parameters(wanted)
    assert {name: getattr(made, name) for name in wanted} == wanted


def test_a_seed_is_made_where_none_is_given() -> None:
    seeds = {parameters(None).seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(seed is not None and 0 <= seed < 2**53 for seed in seeds)


@pytest.mark.parametrize("seed", [0, 1, LARGEST_SEED, -2, -LARGEST_SEED - 1])
def test_a_given_seed_is_kept(seed: int) -> None:
    assert parameters({"seed": seed}).seed == seed


def test_the_seed_that_is_none_to_vllm_is_refused() -> None:
    assert "seed" in refusal({"seed": -1})


@pytest.mark.parametrize("given", [{}, {"seed": 3}, {"top_p": 1}, {"top_k": 0}, {"top_p": 0.5}, {"top_k": 5}, {"top_k": 5, "top_p": 0.5}])
@pytest.mark.parametrize("constrained", [False, True])
def test_temperature_zero_is_greedy_beside_the_defaults(given: dict[str, object], constrained: bool) -> None:
    made = parameters({"temperature": 0, **given}, constrained=constrained)
    assert (made.temperature, made.top_p, made.top_k) == (0, 1, 0)


# Refusals.


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("[]", "JSON object"),
        ("3", "JSON object"),
        ("null", "JSON object"),
        ('"x"', "JSON object"),
        ("{", "not JSON"),
        ("{'a': 1}", "not JSON"),
        ('{"max_tokens": ' + "9" * 5000 + "}", "not JSON"),
        pytest.param("[" * 100_000, "not JSON"),
        pytest.param('{"stop": ' + "[" * 100_000, "not JSON"),
    ],
    ids=lambda value: value[:30],
)
def test_what_is_no_json_object_is_refused(given: str, told: str) -> None:
    assert told in refusal(given)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("temprature", "did you mean temperature?"),
        ("max_token", "did you mean max_tokens?"),
        ("topp", "did you mean top_p?"),
        ("zzz", "supported: allowed_token_ids, "),
        ("", "supported: "),
        ("\ud800", "supported: "),
        ("extra_args", "not supported here"),
        ("detokenize", "not supported here"),
        ("output_kind", "not supported here"),
        ("prompt_logprobs", "not supported here"),
        ("thinking_token_budget", "not supported here"),
        ("_all_stop_token_ids", "not supported here"),
        ("structured_outputs", "send the constraint in the input 'constraint'"),
        ("guided_json", "send the constraint in the input 'constraint'"),
        ("guided_regex", "send the constraint in the input 'constraint'"),
        ("guided_grammar", "send the constraint in the input 'constraint'"),
        ("guided_choice", "send the constraint in the input 'constraint'"),
    ],
    ids=ascii,
)
@pytest.mark.parametrize("value", [None, {}])
def test_a_name_that_is_not_supported_is_refused(name: str, told: str, value: object) -> None:
    assert told in refusal({name: value})


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": "1"},
        {"temperature": True},
        {"temperature": [1]},
        {"top_k": 1.5},
        {"seed": 1.5},
        {"seed": True},
        {"max_tokens": 1.0},
        {"max_tokens": "3"},
        {"stop": 3},
        {"stop": [1]},
        {"bad_words": "x"},
        {"stop_token_ids": ["a"]},
        {"logprobs": True},
        {"ignore_eos": 1},
        {"skip_special_tokens": "no"},
        {"logit_bias": {"a": 1}},
        {"logit_bias": [1]},
    ],
    ids=json.dumps,
)
def test_a_wrong_type_is_refused_with_its_name(given: dict[str, object]) -> None:
    [name] = given
    assert name in refusal(given)


OUT_OF_RANGE: list[dict[str, object]] = [
    {"temperature": -1},
    {"temperature": float("nan")},
    {"temperature": float("inf")},
    {"temperature": 2.5},
    {"top_p": 0},
    {"top_p": 1.1},
    {"top_p": float("nan")},
    {"top_k": -2},
    {"min_p": 1.5},
    {"max_tokens": 0},
    {"max_tokens": -1},
    {"min_tokens": -1},
    {"min_tokens": 101},
    {"presence_penalty": 3},
    {"frequency_penalty": -2.1},
    {"repetition_penalty": 0},
    {"stop": ""},
    {"stop": ["x", ""]},
    {"bad_words": [""]},
    {"logprobs": -2},
]


@pytest.mark.parametrize("given", OUT_OF_RANGE, ids=str)
def test_a_value_out_of_its_range_is_refused_with_its_name(given: dict[str, object]) -> None:
    [name] = given
    assert name in refusal(given)


@pytest.mark.parametrize("name", ["seed", "top_k", "max_tokens"])
@pytest.mark.parametrize("value", [LARGEST_SEED + 1, 2**64, 10**40, -(2**63) - 1])
def test_an_integer_of_more_than_64_bits_is_refused(name: str, value: int) -> None:
    assert name in refusal({name: value})


@pytest.mark.parametrize("n", [2, 0, -1, "1", 1.0, True, 100])
@pytest.mark.parametrize("constrained", [False, True])
def test_one_request_has_one_output(n: object, constrained: bool) -> None:
    assert "n" in refusal({"n": n}, constrained=constrained)


@pytest.mark.parametrize("n", [1, None])
def test_one_output_may_be_asked_for(n: int | None) -> None:
    assert parameters({"n": n}).n == 1


def test_a_repeated_name_is_refused() -> None:
    assert "temperature" in refusal('{"temperature": 0.1, "temperature": 0.9}')


# Beside a constraint.

FIGHTING: dict[str, object] = {
    "min_tokens": 1,
    "ignore_eos": True,
    "bad_words": ["x"],
    "logit_bias": {"5": 1.0},
    "allowed_token_ids": [1],
    "stop_token_ids": [1],
}


def test_every_parameter_that_fights_a_mask_is_tried_here() -> None:
    assert set(FIGHTING) == set(FIGHTS_A_MASK)
    assert set(FIGHTS_A_MASK) <= SUPPORTED


@pytest.mark.parametrize("name", FIGHTING)
def test_what_fights_a_mask_is_refused_with_a_constraint(name: str) -> None:
    assert f"{name} cannot be combined with a constraint" in refusal({name: FIGHTING[name]}, constrained=True)


@pytest.mark.parametrize("name", FIGHTING)
def test_what_fights_a_mask_is_taken_without_a_constraint(name: str) -> None:
    assert getattr(parameters({name: FIGHTING[name]}), name)


@pytest.mark.parametrize(
    "given",
    [
        {"min_tokens": 0},
        {"ignore_eos": False},
        {"bad_words": []},
        {"logit_bias": {}},
        {"min_tokens": None},
        {"ignore_eos": None},
        {"stop": ["x"]},
        {"presence_penalty": 1},
        {"repetition_penalty": 1.5},
        {"top_k": 1},
        {"logprobs": 3},
        {"skip_special_tokens": False},
    ],
    ids=json.dumps,
)
def test_what_fights_no_mask_is_taken_with_a_constraint(given: dict[str, object]) -> None:
    parameters(given, constrained=True)


# Anything at all.

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers() | st.floats(), max_size=2),
)
PARAMETERS = st.dictionaries(
    st.sampled_from([*sorted(SUPPORTED), *SamplingParams.__struct_fields__]) | st.text(max_size=4), VALUES, max_size=4
)


def made_or_refused(text: str, constrained: bool) -> None:
    try:
        made = parameters(text, constrained=constrained)
    except InvalidRequestError:
        return
    assert made.n == 1
    assert made.output_kind is RequestOutputKind.DELTA
    assert made.extra_args is None
    assert made.structured_outputs is None
    assert not (constrained and any(getattr(made, name) for name in FIGHTS_A_MASK))


@given(st.text(), st.booleans())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_text_is_made_or_refused(text: str, constrained: bool) -> None:
    made_or_refused(text, constrained)


@given(PARAMETERS, st.booleans())
@settings(max_examples=200, deadline=None, derandomize=True, phases=[Phase.generate])
def test_any_json_is_made_or_refused(given: dict[str, object], constrained: bool) -> None:
    made_or_refused(json.dumps(given), constrained)


def test_the_text_is_bounded() -> None:
    most = 4 << 20
    assert parameters("{}".ljust(most)).max_tokens == 100
    assert refusal("{}".ljust(most + 1)) == f"sampling_parameters has {most + 1} characters; it takes {most}"
