"""What the client's types promise: config, report, result, and a light import."""

import json

import pytest
from pydantic import ValidationError

from ananke_client import ConstraintReport, Diagnostic, GenerationConfig, GenerationResult, Usage


def test_config_sends_only_what_is_set():
    assert GenerationConfig().to_json() == "{}"
    config = GenerationConfig(max_tokens=7, temperature=0, stop=["\n"], extra={"logprobs": 1})
    assert json.loads(config.to_json()) == {"max_tokens": 7, "temperature": 0, "stop": ["\n"], "logprobs": 1}


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 0},
        {"max_tokens": True},
        {"max_tokens": "7"},
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -2},
        {"min_p": 1.1},
        {"seed": 2**63},
        {"seed": -1},
        {"max_tokens": 2**63},
        {"top_k": 2**63},
        {"stop": ""},
        {"presence_penalty": 2.1},
        {"frequency_penalty": -2.1},
        {"repetition_penalty": 0},
        {"max_token": 7},
        {"extra": {"seed": 1}},
        {"extra": {"logit_bias": object()}},
        {"extra": {"bias": float("inf")}},
    ],
)
def test_config_refuses(fields):
    with pytest.raises(ValidationError):
        GenerationConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0}, {"temperature": 2.0}, {"top_p": 1}, {"top_k": -1}, {"min_p": 0}, {"seed": -(2**63)}, {"presence_penalty": -2}],
)
def test_config_takes_its_bounds(fields):
    assert json.loads(GenerationConfig(**fields).to_json()) == fields


def test_config_shows_the_servers_defaults():
    config = GenerationConfig()
    assert (config.max_tokens, config.temperature, config.top_p, config.top_k) == (2048, 0.7, 0.95, 50)
    assert json.loads(GenerationConfig(max_tokens=2048, top_k=None).to_json()) == {"max_tokens": 2048}


def test_config_is_frozen():
    with pytest.raises(ValidationError):
        GenerationConfig().max_tokens = 3


@pytest.mark.parametrize(
    ("place", "rendered"),
    [
        ({}, "[c] m"),
        ({"pointer": "/schema/not"}, "[c] at /schema/not: m"),
        ({"pointer": ""}, "[c] at the root: m"),
        ({"line": 3, "column": 14}, "[c] at 3:14: m"),
        ({"line": 3}, "[c] at 3: m"),
        ({"pointer": "/grammar", "line": 3, "column": 14}, "[c] at /grammar:3:14: m"),
        ({"hint": "h"}, "[c] m (h)"),
        ({"pointer": "/a", "hint": "h"}, "[c] at /a: m (h)"),
    ],
)
def test_diagnostic_renders(place, rendered):
    assert str(Diagnostic(code="c", message="m", **place)) == rendered


def test_report_renders_every_finding():
    report = ConstraintReport(
        accepted=False,
        kind="regex",
        errors=[Diagnostic(code="invalid_constraint", message="bad")],
        relaxed=[Diagnostic(code="relaxed", message="format", pointer="/f")],
    )
    assert str(report) == "regex: refused\n  error [invalid_constraint] bad\n  relaxed [relaxed] at /f: format"


def test_report_takes_fields_of_a_newer_server():
    report = ConstraintReport.model_validate(
        {"accepted": True, "guarantee": "exact", "news": 1, "warnings": [{"code": "c", "message": "m", "news": 2}]}
    )
    assert report.guarantee == "exact"
    assert report.warnings == [Diagnostic(code="c", message="m")]


def result(text, report):
    return GenerationResult(
        text=text,
        finish_reason="stop",
        constraint_satisfied=report.constraint_satisfied if report else None,
        guarantee="exact",
        report=report,
        usage=Usage(prompt_tokens=1, completion_tokens=1),
        request_id="r",
    )


def test_parsed_is_the_json_value():
    report = ConstraintReport(accepted=True, kind="json_schema", constraint_satisfied=True)
    assert result('{"a": [1]}', report).parsed == {"a": [1]}


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (None, "only the output of a json_schema"),
        (ConstraintReport(accepted=True, kind="regex", constraint_satisfied=True), "only the output of a json_schema"),
        (ConstraintReport(accepted=True, kind="json_schema", constraint_satisfied=False, unsatisfied_reason="cut"), "cut"),
        (ConstraintReport(accepted=True, kind="json_schema"), "does not satisfy"),
    ],
)
def test_parsed_refuses(report, reason):
    with pytest.raises(ValueError, match=reason):
        _ = result("1", report).parsed
