"""Verified constraints and constraints side by side, through the real server and model."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from ananke_client import (
    AnankeInferenceClient,
    AnankeInferenceHTTPClient,
    Constraint,
    ConstraintSpec,
    DeadEndError,
    GenerationConfig,
    GenerationResult,
    VerificationFailedError,
)
from ananke_server.launch import DEFAULT_MODEL
from ananke_server.masking.tokenizer import model_tokenizer

Client = AnankeInferenceClient | AnankeInferenceHTTPClient

PAIR = {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
HOPELESS = {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 3, "maxItems": 3, "uniqueItems": True}
"""Two items cannot fill three places; a mask that does not compare items admits eight arrays, none of them valid."""


def verified(schema: dict[str, Any], **options: Any) -> Constraint:
    return ConstraintSpec.json_schema(schema, unsupported="verify", **options)


def config(seed: int, **values: Any) -> GenerationConfig:
    return GenerationConfig(**{"max_tokens": 60, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": seed} | values)


def sampled(client: Client, constraint: Constraint, seed: int, prompt: str = "Two numbers: ") -> GenerationResult | None:
    """The result, None where no attempt passed."""
    try:
        return client.generate(prompt, constraint, config(seed))
    except VerificationFailedError:
        return None


def test_outputs_are_sampled_until_they_pass_the_validator(client: Client) -> None:
    results = [sampled(client, verified(PAIR), seed) for seed in range(10)]
    passed = [result for result in results if result is not None]
    attempts = [result.metrics["verification"]["attempts"] for result in passed]
    assert len(passed) >= 7
    assert max(attempts) > 1, "no output of any seed failed: the test says nothing"
    assert min(attempts) == 1
    for result, count in zip(passed, attempts, strict=True):
        first, second = json.loads(result.text)
        assert first != second
        assert (result.guarantee, result.constraint_satisfied) == ("verified", True)
        verification = result.metrics["verification"]
        assert len(verification["faults"]) == count - 1
        assert all("unique" in fault for fault in verification["faults"])
        assert verification["tokens"] >= count * 5 > 0
        assert result.usage.completion_tokens <= verification["tokens"]
        assert result.provenance["predicate"]["verification"]["attempts"] == count


def test_a_seeded_request_repeats_itself_and_its_recorded_seed_gives_the_output_at_once(client: Client) -> None:
    first = next(
        result
        for seed in range(20)
        if (result := sampled(client, verified(PAIR), seed)) is not None and result.metrics["verification"]["attempts"] > 1
    )
    predicate = first.provenance["predicate"]
    again = sampled(client, verified(PAIR), predicate["verification"]["first_seed"])
    assert again is not None
    assert (again.text, again.metrics["verification"]["attempts"]) == (first.text, first.metrics["verification"]["attempts"])
    at_once = sampled(client, verified(PAIR), predicate["sampling_parameters"]["seed"])
    assert at_once is not None
    assert (at_once.text, at_once.metrics["verification"]["attempts"]) == (first.text, 1)


def test_a_verified_stream_comes_in_one_piece(client: Client) -> None:
    schema = {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 99}, "minItems": 5, "maxItems": 5, "uniqueItems": True}
    with client.generate_stream("Five numbers: ", verified(schema), config(5)) as stream:
        pieces = [piece for piece in stream if piece]
    assert len(pieces) == 1
    assert len({*json.loads(pieces[0])}) == 5
    assert stream.result.text == pieces[0]
    assert stream.result.constraint_satisfied is True


def test_where_no_output_can_pass_the_request_fails_and_says_why(client: Client) -> None:
    hopeless = verified(HOPELESS, whitespace="compact")
    with pytest.raises(VerificationFailedError, match=r"none of 4 outputs passed the verification.*unique"):
        client.generate("Letters: ", hopeless, config(1))
    with pytest.raises(VerificationFailedError, match=r"the output failed the verification.*unique"):
        client.generate("Letters: ", hopeless, config(1, temperature=0.0))
    with pytest.raises(VerificationFailedError), client.generate_stream("Letters: ", hopeless, config(2)) as stream:
        assert not list(stream), "text of an output that was not accepted"


def test_a_cut_output_is_not_sampled_again(client: Client) -> None:
    result = client.generate("Letters: ", verified(HOPELESS), config(1, max_tokens=3))
    assert (result.finish_reason, result.constraint_satisfied) == ("length", False)
    assert result.metrics["verification"]["attempts"] == 1


def test_a_token_mask_holds_alone_and_beside_a_regex(client: Client) -> None:
    tokenizer = model_tokenizer(str(DEFAULT_MODEL))
    mask = ConstraintSpec.token_mask(allowed=[token for [token] in (tokenizer.tokenize_str(digit) for digit in "02468")])
    alone = client.generate("Digits: ", mask, config(3, max_tokens=8))
    assert re.fullmatch("[02468]*", alone.text)
    assert alone.guarantee == "exact"
    both = client.generate("Digits: ", ConstraintSpec.all_of(mask, ConstraintSpec.regex("[0-5]{6}")), config(3))
    assert re.fullmatch("[024]{6}", both.text)
    assert (both.guarantee, both.constraint_satisfied) == ("exact", True)


def test_side_by_side_grammars_hold_together(client: Client) -> None:
    nested = ConstraintSpec.grammar('start: "(" start ")" | WORD\nWORD: /[a-z]+/')
    constraint = ConstraintSpec.all_of(nested, ConstraintSpec.regex("[(]{2,4}[a-f]{3}[)]+"))
    for seed in range(3):
        result = client.generate("Brackets: ", constraint, config(seed))
        inner = re.fullmatch(r"([(]{2,4})[a-f]{3}([)]+)", result.text)
        assert inner is not None, result.text
        assert len(inner[1]) == len(inner[2])
        assert result.constraint_satisfied is True


def test_constraints_that_part_ways_end_in_a_dead_end(client: Client) -> None:
    round_ones = ConstraintSpec.grammar('start: "ab" part\npart: "(" part ")" | "x"')
    square_ones = ConstraintSpec.grammar('start: "ab" part\npart: "[" part "]" | "y"')
    with pytest.raises(DeadEndError):
        client.generate("Text: ", ConstraintSpec.all_of(round_ones, square_ones), config(1))


def test_any_of_two_schemas(client: Client) -> None:
    flag = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False}
    number = ConstraintSpec.json_schema({"type": "integer", "minimum": 10, "maximum": 99})
    for seed in range(12):
        result = client.generate("A value: ", ConstraintSpec.any_of(number, ConstraintSpec.json_schema(flag)), config(seed))
        value = json.loads(result.text)
        assert (isinstance(value, int) and 10 <= value <= 99) or (isinstance(value, dict) and [*value] == ["on"])
        assert result.constraint_satisfied is True


def test_an_alternative_that_is_verified_beside_one_that_is_not(client: Client) -> None:
    either = ConstraintSpec.any_of(verified(PAIR), ConstraintSpec.regex("none"))
    for seed in range(6):
        result = sampled(client, either, seed)
        if result is not None:
            assert result.text == "none" or len({*json.loads(result.text)}) == 2
            assert (result.guarantee, result.constraint_satisfied) == ("verified", True)
