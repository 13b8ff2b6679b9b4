"""What operators see of a real server: its metrics, the dashboard and alerts made of them, its status, and its traces."""

from __future__ import annotations

import itertools
import json
import re
import time
from typing import Any

import backend_support  # noqa: F401
import patient_http
import pytest
import yaml
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from running_requests import LONG, LONG_CONFIG
from server_metrics import metrics_text
from trace_collector import Collector, Span
from waiting import SOON, eventually

from ananke_client import AnankeError, AnankeInferenceClient, AnankeInferenceHTTPClient, ConstraintSpec, ErrorCode, GenerationConfig
from ananke_server.engine.life import EngineState
from ananke_server.launch import PROJECT, TritonServer
from ananke_server.triton.guided_metrics import GUIDED_FAMILIES
from ananke_server.triton.validate_metrics import VALIDATE_FAMILIES

MONITORING = PROJECT / "monitoring"
FAMILIES = GUIDED_FAMILIES | VALIDATE_FAMILIES


def exported(server: TritonServer) -> dict[str, Metric]:
    """Our families by their names in the dashboard: a counter's with its ``_total``."""
    text = metrics_text(server)
    families = [family for family in text_string_to_metric_families(text) if family.name.startswith("ananke_")]
    return {family.name + ("_total" if family.type == "counter" else ""): family for family in families}


def value(server: TritonServer, sample: str, **labels: str) -> float:
    samples = [sample for family in exported(server).values() for sample in family.samples]
    return sum(one.value for one in samples if one.name == sample and labels.items() <= one.labels.items())


@pytest.fixture(scope="module")
def loaded(server: TritonServer, grpc_client: AnankeInferenceClient) -> TritonServer:
    """The server after requests that come to every kind of metric."""
    config = GenerationConfig(max_tokens=12, seed=7)
    before = value(server, "ananke_requests_total")
    for constraint in (None, ConstraintSpec.regex("[a-z]{40}"), ConstraintSpec.choice("a", "b")):
        grpc_client.generate("x", constraint, config)
    with pytest.raises(AnankeError):
        grpc_client.generate("x", {"type": "regex", "pattern": "(?=a)b"}, config)
    assert eventually(lambda: value(server, "ananke_requests_total") >= before + 4)
    assert eventually(lambda: value(server, "ananke_constraint_refusals_total") > 0)
    return server


def test_every_metric_is_exported_as_it_is_described_and_no_other(loaded: TritonServer) -> None:
    families = exported(loaded)
    assert families.keys() == FAMILIES.keys()
    for name, family in FAMILIES.items():
        found = families[name]
        assert (found.type, found.documentation) == (family.kind, family.description)
        assert found.samples
        for sample in found.samples:
            assert sample.labels.keys() - {"le"} == set(family.labels)


def test_a_cut_output_is_told_from_one_outside_its_constraint(loaded: TritonServer) -> None:
    assert value(loaded, "ananke_outputs_total", guarantee="exact", satisfied="cut", finish_reason="length") >= 1
    assert value(loaded, "ananke_outputs_total", guarantee="exact", satisfied="true", finish_reason="stop") >= 1
    assert value(loaded, "ananke_outputs_total", satisfied="false") == 0


def test_times_are_histograms_that_add_up(loaded: TritonServer, http_client: AnankeInferenceHTTPClient) -> None:
    names = ("ananke_queue_seconds", "ananke_time_to_first_token_seconds", "ananke_request_seconds")
    before = [(value(loaded, f"{name}_count"), value(loaded, f"{name}_sum")) for name in names]
    begun = time.monotonic()
    http_client.generate("x", ConstraintSpec.regex("[a-z]{10}"), GenerationConfig(max_tokens=20, seed=7))
    seconds = time.monotonic() - begun
    assert eventually(lambda: all(value(loaded, f"{name}_count") > count for name, (count, _) in zip(names, before, strict=True)))
    took = []
    for name, (count, total) in zip(names, before, strict=True):
        assert value(loaded, f"{name}_count") == count + 1 == value(loaded, f"{name}_bucket", le="+Inf")
        took.append(value(loaded, f"{name}_sum") - total)
    assert 0 < took[0] < took[1] < took[2] < seconds


def test_the_engines_gauges_rise_and_fall_with_a_stream_that_is_given_up(loaded: TritonServer, grpc_client: AnankeInferenceClient) -> None:
    names = ("ananke_engine_batch_requests", "ananke_kv_cache_usage_ratio", "ananke_requests_running")
    stream = grpc_client.generate_stream("x", LONG, LONG_CONFIG)
    next(stream)
    assert eventually(lambda: all(value(loaded, name) > 0 for name in names))
    status = grpc_client.health_check().status
    assert status is not None
    assert (status.pending, status.running) == (1, 1)
    assert status.kv_cache_usage > 0
    stream.close()
    assert eventually(lambda: not any(value(loaded, name) for name in names), SOON)


def test_the_status_over_plain_http(server: TritonServer) -> None:
    def ask(body: dict[str, Any], code: int) -> dict[str, Any]:
        url = f"http://{server.http_url}/v2/models/guided_vllm/generate"
        response = patient_http.post(url, json=body)
        assert response.status_code == code
        answer: dict[str, Any] = response.json()
        return answer

    status = json.loads(ask({"status": True}, 200)["status"])
    assert (status["state"], status["model"]) == ("running", "SmolLM2-135M-Instruct")
    assert not re.search("prompt|output|/", json.dumps(status | {"versions": None}))
    for wrong in ({"status": False}, {"status": "true"}, {"status": True, "cancel": "x"}, {"status": True, "text_input": "x"}):
        assert "[invalid_request]" in ask(wrong, 400)["error"]


# the dashboard and the alerts


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((MONITORING / "grafana" / "ananke.json").read_text())
    return content


def expressions() -> list[str]:
    panels = dashboard()["panels"]
    variables = dashboard()["templating"]["list"]
    rules = [rule for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
    return [
        *(target["expr"] for panel in panels for target in panel.get("targets", ())),
        *(variable["query"] for variable in variables if variable["type"] == "query"),
        *(rule["expr"] for rule in rules),
    ]


VALUES = {
    "outcome": {"ok", *ErrorCode},
    "state": set(EngineState),
    "satisfied": {"true", "false", "cut", "none"},
    "guarantee": {"exact", "verified", "none"},
}
OF_PROMETHEUS = {"job", "instance", "le"}


def test_dashboard_and_alerts_name_what_is_exported(loaded: TritonServer) -> None:
    samples = {sample.name: family for family in exported(loaded).values() for sample in family.samples}
    labels = {label for family in FAMILIES.values() for label in family.labels}
    used = set()
    for expression in expressions():
        named = re.findall(r"\b((?:ananke|nv)_[a-z0-9_]+)(?:\{([^}]*)\})?", expression)
        assert named or expression.startswith("up{"), expression
        for name, selectors in named:
            assert name in samples, expression
            used.add(name)
            own = {label for sample in samples[name].samples if sample.name == name for label in sample.labels}
            for label, values in re.findall(r'(\w+)\s*=~?\s*"([^"]*)"', selectors):
                assert label in own | OF_PROMETHEUS, expression
                assert label not in VALUES or set(values.split("|")) <= VALUES[label], expression
        for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
            assert {label.strip() for label in grouped.split(",")} <= labels | OF_PROMETHEUS, expression
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in used}
    assert FAMILIES.keys() - shown == set(), "not on the dashboard, nor in an alert"


def test_the_dashboard_can_be_imported_anywhere() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel.get("targets", ()))
    assert dashboard()["templating"]["list"][0]["type"] == "datasource"


def test_the_example_scrapes_under_the_name_that_the_alerts_know() -> None:
    example = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    assert [job["job_name"] for job in example["scrape_configs"]] == ["ananke"]
    assert all((MONITORING / name).is_file() for name in example["rule_files"])
    assert 'up{job="ananke"} == 0' in expressions()


# traces


def spans_of(collector: Collector, trace: str, count: int) -> dict[str, Span]:
    assert eventually(lambda: sum(span.trace == trace for span in collector.spans) >= count)
    return {span.name: span for span in collector.spans if span.trace == trace}


@pytest.mark.parametrize("transport", ["grpc_client", "http_client"])
def test_a_request_is_one_trace_under_its_callers_span(transport: str, request: pytest.FixtureRequest, collector: Collector) -> None:
    client = request.getfixturevalue(transport)
    with TracerProvider().get_tracer("test").start_as_current_span("caller") as caller:
        constraint = ConstraintSpec.regex(f"[a-z]{{8}}{time.time_ns()}")
        result = client.generate("a secret prompt", constraint, GenerationConfig(max_tokens=60, seed=7))
    context = caller.get_span_context()
    spans = spans_of(collector, f"{context.trace_id:032x}", 5)
    assert spans.keys() == {"validate", "generate", "queue", "prefill", "decode"}
    root = spans["generate"]
    assert root.parent == f"{context.span_id:016x}"
    assert {span.parent for name, span in spans.items() if name != "generate"} == {root.id}
    assert root.attributes["gen_ai.usage.output_tokens"] == result.usage.completion_tokens
    assert (root.attributes["ananke.outcome"], root.attributes["ananke.constraint.kind"]) == ("ok", "regex")
    assert "secret" not in str(spans)
    ordered = [spans[name] for name in ("validate", "queue", "prefill", "decode")]
    assert all(span.begun < span.ended for span in ordered)
    assert all(former.ended <= later.begun + 1_000_000 for former, later in itertools.pairwise(ordered))


def test_a_refused_request_is_a_failed_trace(grpc_client: AnankeInferenceClient, collector: Collector) -> None:
    name = f"refused-{time.time_ns()}"
    with pytest.raises(AnankeError):
        grpc_client.generate("x", {"type": "regex", "pattern": "(?=a)b"}, request_id=name)

    def found() -> list[Span]:
        return [span for span in collector.spans if str(span.attributes.get("ananke.request_id", "")).startswith(name)]

    assert eventually(lambda: len(found()) == 2)
    by_name = {span.name: span for span in found()}
    assert by_name["generate"].is_error
    assert by_name["generate"].attributes["ananke.outcome"] == "unsupported_constraint"
    assert by_name["validate"].attributes["ananke.refusal"] == "unsupported_constraint"
    assert by_name["validate"].trace == by_name["generate"].trace
