"""How a call's arguments become input tensors."""

import json
import re

import pytest
from pydantic import BaseModel, TypeAdapter

from ananke_client import ConstraintSpec, GenerationConfig, InvalidConstraintError, InvalidRequestError
from ananke_client.request import LEASE, GenerationRequest, choice_constraint, constraint_text, json_schema_constraint, regex_constraint


def request(prompt="hi", constraint=None, config=None, **over):
    return GenerationRequest.of(prompt, constraint, config, **{"stream": False, "timeout": 1.0, "request_id": None, **over})


def test_tensors_of_a_plain_request():
    assert request().tensors() == {
        "text_input": "hi",
        "sampling_parameters": "{}",
        "stream": False,
        "exclude_input_in_output": True,
        "return_finish_reason": True,
        "return_cumulative_logprob": False,
        "return_logprobs": False,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
    }


def test_logprobs_ask_for_the_cumulative_one():
    assert request(config=GenerationConfig(extra={"logprobs": 0})).tensors()["return_cumulative_logprob"] is True


def test_messages_are_sent_as_json():
    messages = [{"role": "user", "content": "é"}]
    assert json.loads(request(messages).text_input) == messages


@pytest.mark.parametrize("prompt", [None, 7, [{"role": "user"}], ["hi"], [{"role": "user", "content": float("nan")}], "\ud800"])
def test_prompt_refused(prompt):
    with pytest.raises(InvalidRequestError, match="prompt"):
        request(prompt)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_timeout_refused(timeout):
    with pytest.raises(InvalidRequestError, match="timeout"):
        request(timeout=timeout)


def test_deadline_is_rounded_up():
    assert request(timeout=0.0001).parameters()["deadline_ms"] == 1
    assert request(timeout=2.5).parameters()["deadline_ms"] == 2500


def test_request_id_is_minted_or_kept():
    assert re.fullmatch("[0-9a-f]{32}", request().request_id)
    assert request().request_id != request().request_id
    assert request(request_id="mine").request_id == "mine"
    for refused in ("", "a\nb", "\ud800", 5, b"a"):
        with pytest.raises(InvalidRequestError, match="request_id"):
            request(request_id=refused)


def test_constraint_is_sent_as_it_is():
    assert constraint_text("{not json") == "{not json"
    assert json.loads(constraint_text({"type": "nonsense", "schema": {"default": None}})) == {
        "type": "nonsense",
        "schema": {"default": None},
    }
    assert json.loads(constraint_text(ConstraintSpec.regex("a+"))) == {"type": "regex", "pattern": "a+"}


@pytest.mark.parametrize("constraint", [{"a": object()}, {"a": float("nan")}, "\ud800", ConstraintSpec.regex("\ud800")])
def test_constraint_that_is_no_json(constraint):
    with pytest.raises(InvalidConstraintError, match=r"not JSON|UTF-8"):
        constraint_text(constraint)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (re.compile("a.b"), "a.b"),
        (re.compile("a", re.IGNORECASE), "(?i)a"),
        (re.compile("a # b", re.VERBOSE | re.DOTALL | re.MULTILINE), "(?msx)a # b"),
        (re.compile("(?s)a."), "(?s)(?s)a."),
    ],
)
def test_a_compiled_patterns_flags_are_written_into_it(pattern, text):
    assert regex_constraint(pattern) == {"type": "regex", "pattern": text}
    assert ConstraintSpec.regex(pattern, dialect="ecma").pattern == text
    assert re.compile(text).flags == pattern.flags


@pytest.mark.parametrize("pattern", [re.compile("a", re.ASCII), re.compile(b"a")])
def test_compiled_patterns_refused(pattern):
    with pytest.raises(InvalidConstraintError):
        regex_constraint(pattern)


class Point(BaseModel):
    x: int


@pytest.mark.parametrize(
    ("constraint", "advice"),
    [
        (dict, r"ConstraintSpec\.json_schema"),
        (TypeAdapter(int | str), r"ConstraintSpec\.json_schema"),
        (Point(x=1), r"ConstraintSpec\.json_schema\(Point\)"),
        (GenerationConfig(), r"ConstraintSpec\.json_schema\(GenerationConfig\)"),
        (re.compile("a"), r"ConstraintSpec\.regex"),
        (["a"], "a mapping or JSON text"),
        (b"{}", "a mapping or JSON text"),
    ],
)
def test_what_is_no_constraint_is_told_what_makes_one(constraint, advice):
    with pytest.raises(InvalidConstraintError, match=advice):
        request(constraint=constraint)


def test_an_instance_is_no_schema():
    with pytest.raises(InvalidConstraintError, match="an instance of Point: give the type"):
        json_schema_constraint(Point(x=1))


@pytest.mark.parametrize("config", [{"max_tokens": 5}, {}, "x", 0])
def test_a_config_is_a_generation_config(config):
    with pytest.raises(InvalidRequestError, match="give a GenerationConfig"):
        request(config=config)


def test_choices_are_a_list():
    assert choice_constraint(("yes", "no")) == {"type": "choice", "choices": ["yes", "no"]}
    with pytest.raises(InvalidRequestError, match="one text"):
        choice_constraint("yes")


def test_schema_may_be_a_boolean():
    assert json_schema_constraint(True) == {"type": "json_schema", "schema": True}


@pytest.mark.parametrize("stream", [True, False])
def test_each_try_has_a_lease_and_a_name(stream):
    one, two = (request(stream=stream).attempt(5.0).parameters() for _ in range(2))
    assert (one["deadline_ms"], one["lease_ms"]) == (5000, 1000 * LEASE)
    assert one["attempt_id"] != two["attempt_id"]
