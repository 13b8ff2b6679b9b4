"""The validate model on a real server: bombs beside other requests, metrics, and Triton's response cache."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from ananke_client import AnankeInferenceClient, AnankeInferenceHTTPClient, ConstraintSpec
from ananke_client.constraint import GrammarConstraint
from ananke_server.launch import DEFAULT_MODEL, PROJECT, TritonServer, free_ports

Client = AnankeInferenceClient | AnankeInferenceHTTPClient

SECONDS, MARGIN = 2.0, 1.5


def bomb(number: int) -> GrammarConstraint:
    """Within every static limit, and more than the compiler does in two seconds: it takes about eight."""
    return ConstraintSpec.grammar("start: " + " | ".join(f'"{number}k{name}x"' for name in range(50_000)))


def metric(server: TritonServer, name: str, labels: str = "") -> float:
    lines = httpx.get(f"http://{server.metrics_url}/metrics", trust_env=False).text.splitlines()
    [line] = [line for line in lines if line.startswith(f"{name}{labels} ")]
    return float(line.split()[-1])


def eventually(holds: Any, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def test_a_bomb_is_refused_and_nobody_waits_for_it(server: TritonServer, grpc_client: AnankeInferenceClient) -> None:
    kills = metric(server, "ananke_sandbox_kills_total")
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as threads:
        exploding = threads.submit(grpc_client.validate, bomb(int(time.time()) % 1000))
        latencies = []
        while not exploding.done():
            started = time.monotonic()
            assert grpc_client.validate(ConstraintSpec.regex(f"[a-z]{{{len(latencies) + 1}}}")).accepted
            latencies.append(time.monotonic() - started)
        report = exploding.result()
    assert time.monotonic() - begun < SECONDS + MARGIN
    assert [error.code for error in report.errors] == ["constraint_too_large"]
    assert sorted(latencies)[len(latencies) // 2] < 0.1
    assert max(latencies) < 0.5
    assert server.ready()
    assert eventually(lambda: metric(server, "ananke_sandbox_kills_total") == kills + 1)


def test_hits_and_refusals_are_counted(server: TritonServer, client: Client) -> None:
    names = ("ananke_compile_cache_hits_total", "ananke_compile_cache_misses_total", "ananke_compile_seconds_total")
    hits, misses, seconds = (metric(server, name) for name in names)
    pattern = f"({time.time_ns()}"
    for _ in range(20):
        assert not client.validate(ConstraintSpec.regex(pattern)).accepted
    assert eventually(lambda: metric(server, names[0]) + metric(server, names[1]) >= hits + misses + 20)
    # Each instance of the model has a cache of its own.
    assert 1 <= metric(server, names[1]) - misses <= 4
    assert metric(server, names[2]) > seconds
    assert metric(server, "ananke_constraint_refusals_total", '{code="invalid_constraint"}') >= 20


def test_a_request_without_a_constraint_is_answered(server: TritonServer) -> None:
    report = json.loads(infer(server, "validate", None)[0])
    assert report["accepted"]
    assert report["guarantee"] == "none"


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server of validate alone, with Triton's response cache and an ensemble that asks for what is compiled."""
    repository = tmp_path_factory.mktemp("models")
    shutil.copytree(PROJECT / "model_repository" / "validate", repository / "validate")
    (repository / "generate" / "1").mkdir(parents=True)
    (repository / "generate" / "config.pbtxt").write_text(ENSEMBLE)
    http, grpc, metrics = free_ports(3)
    environment = {"ANANKE_RESPONSE_CACHE_MIB": "16", "ANANKE_VALIDATE_INSTANCES": "1", "ANANKE_KINDS__GRAMMAR": "false"}
    log = PROJECT / ".ananke" / "run" / "test-cached.log"
    with TritonServer([repository], http, grpc, metrics, DEFAULT_MODEL, environment, log) as server:
        server.wait_until_ready(120)
        yield server


class TestResponseCache:
    def test_reports_come_from_it_and_grammars_still_come(self, cached: TritonServer) -> None:
        constraint = ConstraintSpec.regex("[a-z]+").to_json()
        for _ in range(3):
            [report] = infer(cached, "validate", constraint)
            [sealed] = infer(cached, "generate", constraint)
            assert json.loads(report)["accepted"]
            assert json.loads(sealed[64:])["grammar"]
        assert metric(cached, "nv_cache_num_hits_per_model", '{model="validate",version="1"}') == 2

    def test_refusals_are_cached_too(self, cached: TritonServer) -> None:
        reports = [infer(cached, "validate", "{") for _ in range(3)]
        assert reports[0] == reports[1] == reports[2]
        assert not json.loads(reports[0][0])["accepted"]

    def test_a_kind_that_is_switched_off_is_refused(self, cached: TritonServer) -> None:
        [report] = infer(cached, "validate", '{"grammar": "start: /a/"}')
        [error] = json.loads(report)["errors"]
        assert (error["code"], error["pointer"]) == ("unsupported_constraint", "/grammar")
        assert "the operator of this server has switched constraints of the kind grammar off" in error["message"]


ENSEMBLE = """
name: "generate"
platform: "ensemble"
input [ { name: "constraint" data_type: TYPE_STRING dims: [ 1 ] optional: true } ]
output [ { name: "sealed" data_type: TYPE_STRING dims: [ 1 ] } ]
ensemble_scheduling { step [ {
  model_name: "validate"
  model_version: -1
  input_map { key: "constraint" value: "constraint" }
  output_map { key: "compiled" value: "sealed" }
} ] }
"""


def infer(server: TritonServer, model: str, constraint: str | None) -> list[str]:
    texts = [] if constraint is None else [constraint]
    body = {"inputs": [{"name": "constraint", "shape": [1], "datatype": "BYTES", "data": [text]} for text in texts]}
    response = httpx.post(f"http://{server.http_url}/v2/models/{model}/infer", json=body, trust_env=False, timeout=30)
    assert response.status_code == 200, response.text
    return [output["data"][0] for output in response.json()["outputs"]]
