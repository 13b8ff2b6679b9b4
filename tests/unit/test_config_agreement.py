"""Sampling parameters are checked on both sides, by the same bounds and with the same defaults."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ananke_client import GenerationConfig
from ananke_client.errors import InvalidRequestError
from ananke_server.engine.sampling import SUPPORTED, sampling_params
from ananke_server.settings import Settings

SETTINGS = Settings(model="x")
NUMBERS = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty")
EDGES = (-(2**63) - 1, -(2**63), -3, -2.1, -2, -1.5, -1, -0.1, 0, 1e-9, 0.5, 1, 1.0001, 2, 2.1, 7, 1000.0, 2**62, 2**63 - 1, 2**63)


def server_takes(text):
    try:
        sampling_params(text, SETTINGS, constrained=True, context_left=10_000)
    except InvalidRequestError:
        return False
    return True


def client_takes(name, value):
    try:
        return GenerationConfig(**{name: value}).to_json()
    except ValidationError:
        return None


def raw(name, value):
    """The parameter as a client sends it that checks nothing."""
    return json.dumps({name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", EDGES)
def test_the_client_refuses_what_the_server_refuses(name, value):
    text = client_takes(name, value)
    if text is None:
        assert not server_takes(raw(name, value)), "the client refuses what the server takes"
    else:
        assert server_takes(text), "the client takes what the server refuses"


@pytest.mark.parametrize(("value", "good"), [("a", True), (["a", "b"], True), ("", False), (["a", ""], False), ([], True)])
def test_stop_strings(value, good):
    text = client_takes("stop", value)
    assert (text is not None) is good
    assert server_takes(raw("stop", value)) is good


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "max_tokens": st.integers(1, 10_000),
            # Below, vLLM changes others: greedy sampling has no top_p.
            "temperature": st.floats(0.01, 2),
            "top_p": st.floats(0, 1, exclude_min=True),
            "top_k": st.integers(-1, 1000),
            "min_p": st.floats(0, 1),
            "seed": st.integers(-(2**63), 2**63 - 1).filter(lambda seed: seed != -1),
            "presence_penalty": st.floats(-2, 2),
            "frequency_penalty": st.floats(-2, 2),
            "repetition_penalty": st.floats(0, 5, exclude_min=True),
        },
    )
)
@settings(max_examples=200, deadline=None)
def test_what_the_client_takes_reaches_the_engine(fields):
    params = sampling_params(GenerationConfig(**fields).to_json(), SETTINGS, constrained=True, context_left=10_000)
    assert {name: getattr(params, name) for name in fields} == fields


@pytest.mark.parametrize(
    "config",
    [
        GenerationConfig(),
        GenerationConfig(seed=1),
        GenerationConfig(max_tokens=2048, top_k=None, stop=["a"]),
        GenerationConfig(extra={"logprobs": 1}),
        GenerationConfig(seed=1).model_copy(update={"temperature": 0.0}),
    ],
)
def test_what_is_made_of_a_dump_sends_the_same(config):
    for again in (
        GenerationConfig.model_validate(config.model_dump()),
        GenerationConfig.model_validate_json(config.model_dump_json()),
        GenerationConfig(**config.model_dump(mode="json")),
        pickle.loads(pickle.dumps(config)),
    ):
        assert (again.to_json(), again, again.model_fields_set) == (config.to_json(), config, config.model_fields_set)


def test_what_is_too_deep_for_json_is_no_parameter():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValidationError, match="not JSON"):
        GenerationConfig(extra={"x": deep})


def test_the_defaults_are_the_servers():
    shown = GenerationConfig()
    params = sampling_params(shown.to_json(), SETTINGS, constrained=True, context_left=10_000)
    for name in ("max_tokens", "temperature", "top_p", "top_k"):
        assert getattr(shown, name) == getattr(params, name) == getattr(SETTINGS, f"default_{name}")


def test_every_field_has_a_name_that_the_server_takes():
    assert GenerationConfig.model_fields.keys() - {"extra"} <= SUPPORTED
