"""The validate model on a real server: bombs beside other requests, metrics, and Triton's response cache."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import patient_http
import pytest
from server_metrics import settled, totals
from waiting import eventually

from ananke_client import AnankeInferenceClient, AnankeInferenceHTTPClient, ConstraintSpec
from ananke_client.constraint import GrammarConstraint
from ananke_server.launch import DEFAULT_MODEL, PROJECT, TritonServer
from ananke_server.ports import free_ports

Client = AnankeInferenceClient | AnankeInferenceHTTPClient

HITS, MISSES = "ananke_compile_cache_hits_total", "ananke_compile_cache_misses_total"
SECONDS_COMPILED, KILLS = "ananke_compile_seconds_total", "ananke_sandbox_kills_total"
RUNNING = "ananke_validations_running"


def bomb(number: int, names: int = 50_000) -> GrammarConstraint:
    """Within every static limit, and more than the compiler does in two seconds: it takes about eight."""
    return ConstraintSpec.grammar("start: " + " | ".join(f'"{number}k{name}x"' for name in range(names)))


def test_a_bomb_is_refused_and_nobody_waits_for_it(server: TritonServer, grpc_client: AnankeInferenceClient) -> None:
    kills = settled(server)[KILLS]
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as threads:
        exploding = threads.submit(grpc_client.validate, bomb(int(time.time()) % 1000))
        assert eventually(lambda: totals(server)[RUNNING] == 1 or exploding.done())
        latencies = []
        while not exploding.done():
            started = time.monotonic()
            assert grpc_client.validate(ConstraintSpec.regex(f"[a-z]{{{len(latencies) + 1}}}")).accepted
            latencies.append(time.monotonic() - started)
        report = exploding.result()
    took = time.monotonic() - begun
    assert [error.code for error in report.errors] == ["constraint_too_large"]
    # Whoever waited for the bomb waited for all of it; a moment without a processor may be anybody's.
    assert len(latencies) > 5
    assert sorted(latencies)[len(latencies) // 2] < took / 5
    assert sorted(latencies)[-3] < took / 2
    assert eventually(server.ready)
    assert eventually(lambda: (totals(server)[KILLS], totals(server)[RUNNING]) == (kills + 1, 0))


def test_hits_and_refusals_are_counted(server: TritonServer, client: Client) -> None:
    before = settled(server)
    pattern = f"({time.time_ns()}"
    for _ in range(20):
        assert not client.validate(ConstraintSpec.regex(pattern)).accepted
    assert eventually(lambda: sum(totals(server)[name] - before[name] for name in (HITS, MISSES)) >= 20)
    after = settled(server)
    # Each instance of the model has a cache of its own.
    assert 1 <= after[MISSES] - before[MISSES] <= 4
    assert after[SECONDS_COMPILED] > before[SECONDS_COMPILED]
    refusals = 'ananke_constraint_refusals_total{code="invalid_constraint"}'
    assert after[refusals] - before.get(refusals, 0) == 20


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
        hits = 'nv_cache_num_hits_per_model{model="validate",version="1"}'
        assert eventually(lambda: totals(cached, "nv_cache")[hits] == 2)

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
    response = patient_http.post(f"http://{server.http_url}/v2/models/{model}/infer", json=body)
    assert response.status_code == 200, response.text
    return [output["data"][0] for output in response.json()["outputs"]]
