"""Security from outside: a server with API keys, mutual TLS and closed endpoints, and who gets what of it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import patient_http
import pytest
from certificates import Holder, certificates
from four_clients import FOUR, AnyClient, make_client
from real_server import start_server
from running_requests import LONG, LONG_CONFIG
from server_metrics import metrics_text
from small_chunks import answer_to_small_chunks
from tritonclient.grpc import service_pb2, service_pb2_grpc
from waiting import eventually, wait_until

from ananke_client import (
    CancelledError,
    ConstraintSpec,
    GenerationConfig,
    InvalidRequestError,
    RetryPolicy,
    TLSConfig,
    UnauthenticatedError,
)
from ananke_client.grpc_codec import credentials_of, encode_command, encode_tensors
from ananke_server.api_keys import key_line, new_key
from ananke_server.launch import PROJECT, LaunchError, TritonServer
from ananke_server.protection import GRPC_PREFIX, MANAGEMENT_HEADER

CHOICE = ConstraintSpec.choice("green", "blue")
CONFIG = GenerationConfig(max_tokens=8, seed=7)
PROMPT_BYTES = 20_000
START_ATTEMPTS = 3
REFUSED = "[unauthenticated] "
MANAGEMENT = {"GET": ["v2/systemsharedmemory/status", "v2/cudasharedmemory/status", "v2/trace/setting", "v2/logging"]}
MANAGEMENT |= {"POST": ["v2/repository/index", "v2/repository/models/validate/unload", "v2/models/generate/trace/setting", "v2/logging"]}
OPEN = ["v2/health/live", "v2/health/ready", "v2/models/generate/ready", "v2", "v2/models/generate", "v2/models/generate/config"]


@dataclass(frozen=True)
class Secured:
    """The server, its certificates, and the keys that it admits."""

    server: TritonServer
    made: dict[str, Holder]
    keys: Path
    one: str
    two: str
    management: str
    provenance: Path

    def tls(self, holder: str | None = "client", authority: str = "authority") -> TLSConfig:
        own = None if holder is None else self.made[holder]
        ca_file = self.made[authority].certificate
        return TLSConfig(ca_file=ca_file, certificate_file=own and own.certificate, key_file=own and own.key)

    def client(self, kind: str, key: str) -> AnyClient:
        port, tls = (self.server.grpc_port, self.tls()) if kind.startswith("grpc") else (self.server.http_port, None)
        return make_client(kind, port, tls=tls, api_key=key, timeout=60, retry=RetryPolicy(attempts=1))

    def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        return patient_http.post(f"http://{self.server.http_url}/v2/models/{path}", json=body, headers=headers)

    def channel(self) -> grpc.Channel:
        return grpc.secure_channel(self.server.grpc_url, credentials_of(self.tls()))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("security")
    made, keys, one, two, management = certificates(folder), folder / "api_keys", new_key(), new_key(), new_key()
    keys.write_text(key_line("one", one) + key_line("two", two))
    server = start_server(
        "security",
        host="0.0.0.0",
        ANANKE_PRESET="production",
        ANANKE_IDLE_TIMEOUT="900",  # it is the tests that take their time
        ANANKE_API_KEY_FILE=str(keys),
        ANANKE_MANAGEMENT_KEY=management,
        ANANKE_TLS_CERTIFICATE_FILE=made["server"].certificate,
        ANANKE_TLS_KEY_FILE=made["server"].key,
        ANANKE_TLS_CLIENT_CA_FILE=made["authority"].certificate,
        ANANKE_RESPONSE_CACHE_MIB="8",
        ANANKE_MAX_PROMPT_BYTES=str(PROMPT_BYTES),
        ANANKE_PROVENANCE_LOG=str(folder / "provenance.jsonl"),
        # As talkative as it gets.
        ANANKE_PROVENANCE_LOG_CONTENT="true",
        ANANKE_LOG_CONTENT="true",
        ANANKE_LOG_LEVEL="DEBUG",
    )
    yield Secured(server, made, keys, one, two, management, folder / "provenance.jsonl")
    server.stop()


@pytest.mark.parametrize("kind", FOUR)
def test_a_client_with_a_key_is_served(secured: Secured, kind: str) -> None:
    with secured.client(kind, secured.one) as client:
        assert client.generate("Grass is ", CHOICE, CONFIG).constraint_satisfied
        assert "".join(client.generate_stream("The sky is ", CHOICE, CONFIG)) in ("green", "blue")
        assert client.validate(CHOICE).accepted
        health = client.health_check()
        assert health.ready, health.error
        assert client.model_metadata().name == "generate"
        assert client.model_statistics()


def test_it_runs_as_the_preset_says(secured: Secured) -> None:
    """Its log is one for machines, and an answer is on record when it comes."""
    with secured.client("grpc", secured.one) as client:
        result = client.generate("Grass is ", CHOICE, CONFIG, request_id="recorded")
    assert result.metrics["provenance_log"]["line"] == "written"
    assert json.loads(result.envelope) in [json.loads(line)["envelope"] for line in secured.provenance.read_text().splitlines()]
    log = secured.server.log_file
    assert log is not None

    def logged() -> list[dict[str, Any]]:
        whole = log.read_text(errors="replace").split("\n")[:-1]
        return [json.loads(line) for line in whole if line.startswith('{"')]

    wait_until(lambda: any("recorded" in line["message"] and "outcome=ok" in line["message"] for line in logged()))
    assert all({"timestamp", "level", "logger", "service"} <= line.keys() for line in logged())


@pytest.mark.parametrize("kind", FOUR)
def test_a_client_with_a_wrong_key_gets_a_typed_error_and_no_status(secured: Secured, kind: str) -> None:
    with secured.client(kind, new_key()) as client:
        for call in (
            lambda: client.generate("x", CHOICE, CONFIG),
            lambda: list(client.generate_stream("x", None, CONFIG)),
            lambda: client.validate(CHOICE),
            lambda: client.cancel("any"),
        ):
            with pytest.raises(UnauthenticatedError, match="not admitted"):
                call()
        health = client.health_check()
        assert (health.live, health.ready, health.status) == (True, False, None)
        assert REFUSED in str(health.error)


def tensors(model: str) -> dict[str, str]:
    return {"constraint": CHOICE.to_json()} | ({} if model == "validate" else {"text_input": "x"})


@pytest.mark.parametrize("key", ["", "wrong"])
@pytest.mark.parametrize("model", ["generate", "guided_vllm", "guided_relay", "generate_once", "validate"])
def test_no_model_answers_without_a_key_over_http(secured: Secured, model: str, key: str) -> None:
    headers = {"X-API-Key": key} if key else {}
    verbs = ["generate"] if model in ("generate_once", "validate") else ["generate", "generate_stream"]
    for verb in verbs:
        answer = secured.post(f"{model}/{verb}", {**tensors(model), **({"x-api-key": key} if key else {})})
        assert REFUSED in answer.text, answer.text
        assert "text_output" not in answer.text
    inputs = [{"name": name, "datatype": "BYTES", "shape": [1], "data": [value]} for name, value in tensors(model).items()]
    if model in ("generate_once", "validate"):
        answer = secured.post(f"{model}/infer", {"inputs": inputs}, **headers)
        assert answer.status_code >= 400
        assert REFUSED in answer.text, answer.text


@pytest.mark.parametrize("key", ["", "wrong"])
@pytest.mark.parametrize("model", ["generate", "guided_vllm", "guided_relay", "generate_once", "validate"])
def test_no_model_answers_without_a_key_over_grpc(secured: Secured, model: str, key: str) -> None:
    metadata = [("x-api-key", key)] if key else []
    with secured.channel() as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        message = encode_tensors(model, dict(tensors(model)))
        answers = list(stub.ModelStreamInfer(iter([message]), metadata=metadata, timeout=60))
        assert all(REFUSED in answer.error_message for answer in answers), answers
        assert answers
        if model in ("generate_once", "validate"):
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelInfer(message, metadata=metadata, timeout=60)
            assert REFUSED in refused.value.details()


@pytest.mark.parametrize("command", [{"status": True}, {"cancel": "any"}, {"renew": "any"}])
def test_no_command_is_obeyed_without_a_key(secured: Secured, command: dict[str, Any]) -> None:
    assert REFUSED in secured.post("guided_vllm/generate", command).text
    with secured.channel() as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        (answer,) = stub.ModelStreamInfer(iter([encode_command("guided_vllm", command)]), timeout=60)
        assert REFUSED in answer.error_message
    assert REFUSED not in secured.post("guided_vllm/generate", {**command, "x-api-key": secured.one}).text


def test_the_command_line_speaks_tls_and_has_a_key(secured: Secured) -> None:
    holder = secured.made["client"]
    environment = {
        "ANANKE_CA_FILE": secured.made["authority"].certificate,
        "ANANKE_CLIENT_CERTIFICATE_FILE": holder.certificate,
        "ANANKE_CLIENT_KEY_FILE": holder.key,
        "ANANKE_API_KEY": secured.one,
    }
    command = [Path(sys.executable).with_name("ananke"), "generate", "Grass is ", "--choice", "green", "--server"]
    for server in (secured.server.grpc_url, f"http://{secured.server.http_url}"):
        done = subprocess.run([*command, server], env=os.environ | environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout.strip()) == (0, "green"), done.stderr
    refused = subprocess.run([*command, server], env=os.environ | environment | {"ANANKE_API_KEY": "x"}, capture_output=True, text=True)
    assert refused.returncode == 2
    assert REFUSED in refused.stderr


def test_plain_infer_takes_the_key_as_a_header(secured: Secured) -> None:
    inputs = [{"name": name, "datatype": "BYTES", "shape": [1], "data": [value]} for name, value in tensors("generate_once").items()]
    for name in ("x-api-key", "X-Api-Key"):
        answer = secured.post("generate_once/infer", {"inputs": inputs}, **{name: secured.one})
        assert answer.status_code == 200, answer.text


def test_an_answer_given_before_is_not_given_to_one_without_a_key(secured: Secured) -> None:
    """Triton's response cache, which was asked for, would do that: it is off where keys are checked."""
    constraint = ConstraintSpec.choice("seen", "before")
    with secured.client("http", secured.one) as client:
        for _ in range(3):
            assert client.validate(constraint).accepted
    inputs = [{"name": "constraint", "datatype": "BYTES", "shape": [1], "data": [constraint.to_json()]}]
    assert REFUSED in secured.post("validate/infer", {"inputs": inputs, "outputs": [{"name": "constraint_report"}]}).text


def test_a_key_cancels_its_own_requests_alone(secured: Secured) -> None:
    with secured.client("grpc", secured.one) as mine, secured.client("http", secured.two) as theirs:
        stream = mine.generate_stream("x", LONG, LONG_CONFIG, request_id="same")
        next(iter(stream))
        assert not theirs.cancel("same")
        assert mine.cancel("same")
        with pytest.raises(CancelledError):
            list(stream)


def test_a_key_is_revoked_without_a_restart(secured: Secured) -> None:
    brief = new_key()
    before = secured.keys.read_text()
    with secured.client("grpc", brief) as client:
        secured.keys.write_text(before + key_line("brief", brief))
        assert client.generate("x", CHOICE, CONFIG).text
        secured.keys.write_text(before)
        with pytest.raises(UnauthenticatedError):
            client.generate("x", CHOICE, CONFIG)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_management_is_closed_over_http_but_to_who_has_its_key(secured: Secured, method: str) -> None:
    for path in MANAGEMENT[method]:
        url = f"http://{secured.server.http_url}/{path}"
        for headers in {}, {MANAGEMENT_HEADER: new_key()}, {"x-api-key": secured.one}:
            answer = patient_http.request(method, url, headers=headers)
            assert (answer.status_code, "restricted" in answer.text) == (403, True), path
    for path in ("v2/systemsharedmemory/status", "v2/trace/setting", "v2/logging"):
        url = f"http://{secured.server.http_url}/{path}"
        assert patient_http.get(url, headers={MANAGEMENT_HEADER: secured.management}).status_code == 200


def test_health_and_metadata_stay_open(secured: Secured) -> None:
    for path in OPEN:
        assert patient_http.get(f"http://{secured.server.http_url}/{path}").status_code == 200, path


def test_models_cannot_be_loaded_or_unloaded_even_with_the_management_key(secured: Secured) -> None:
    for verb in ("load", "unload"):
        url = f"http://{secured.server.http_url}/v2/repository/models/validate/{verb}"
        answer = patient_http.post(url, headers={MANAGEMENT_HEADER: secured.management})
        assert answer.status_code == 503, answer.text
        assert "explicit model load / unload is not allowed" in answer.text
    assert patient_http.get(f"http://{secured.server.http_url}/v2/models/validate/ready").status_code == 200


def test_management_is_closed_over_grpc_but_to_who_has_its_key(secured: Secured) -> None:
    calls = {
        "RepositoryIndex": service_pb2.RepositoryIndexRequest(),
        "RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest(model_name="validate"),
        "SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusRequest(),
        "CudaSharedMemoryStatus": service_pb2.CudaSharedMemoryStatusRequest(),
        "TraceSetting": service_pb2.TraceSettingRequest(),
        "LogSettings": service_pb2.LogSettingsRequest(),
    }
    with secured.channel() as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for name, message in calls.items():
            for metadata in [], [(f"{GRPC_PREFIX}{MANAGEMENT_HEADER}", new_key())], [("x-api-key", secured.one)]:
                with pytest.raises(grpc.RpcError, match="restricted"):
                    getattr(stub, name)(message, metadata=metadata)
            if name != "RepositoryModelUnload":
                getattr(stub, name)(message, metadata=[(f"{GRPC_PREFIX}{MANAGEMENT_HEADER}", secured.management)])


def test_grpc_speaks_to_nobody_without_a_certificate_of_the_authority(secured: Secured) -> None:
    url = secured.server.grpc_url
    channels = [
        grpc.insecure_channel(url),
        grpc.secure_channel(url, credentials_of(secured.tls(None))),
        grpc.secure_channel(url, credentials_of(secured.tls("stranger"))),
        grpc.secure_channel(url, credentials_of(secured.tls("client", authority="other"))),
    ]
    for channel in channels:
        with channel, pytest.raises(grpc.RpcError) as refused:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ServerLive(service_pb2.ServerLiveRequest(), timeout=10)
        assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_http_is_bound_to_this_machine_where_tls_is_asked_for(secured: Secured) -> None:
    """The server was told 0.0.0.0, and 127.0.0.2 is another address of the same machine."""
    socket.create_connection(("127.0.0.2", secured.server.grpc_port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", secured.server.http_port), timeout=5)


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_what_is_too_large_is_refused_by_its_name(secured: Secured, kind: str) -> None:
    said = f"text_input is larger than the limit of {PROMPT_BYTES} bytes"
    with secured.client(kind, secured.one) as client, pytest.raises(InvalidRequestError, match=said):
        client.generate("é" * (PROMPT_BYTES // 2 + 1), None, CONFIG)
    body = {"text_input": "x", "sampling_parameters": " " * (5 << 20), "x-api-key": secured.one}
    assert "[invalid_request] sampling_parameters has 5242880 characters" in secured.post("generate/generate", body).text


def test_a_huge_request_over_grpc_is_refused(secured: Secured) -> None:
    with secured.client("grpc", secured.one) as client, pytest.raises(InvalidRequestError, match="text_input is larger than"):
        client.generate("x" * (40 << 20), None, CONFIG)
    assert eventually(secured.server.ready)


@pytest.fixture(scope="module")
def large_stacks() -> Iterator[TritonServer]:
    """A server whose threads have large stacks, of one model. Some starts with them end with an error of Triton's own."""
    for attempt in range(START_ATTEMPTS):
        try:
            server = start_server("stacks", models=["validate"], ANANKE_THREAD_STACK_MIB="1024")
            break
        except LaunchError:
            if attempt == START_ATTEMPTS - 1:
                raise
    yield server
    server.stop()


def test_a_huge_body_does_not_end_the_server(large_stacks: TritonServer) -> None:
    """8 MB over HTTP end Triton 2.51 where its threads have the usual stacks."""
    body = {"constraint": json.dumps({"type": "regex", "pattern": "x" * (40 << 20)})}
    answer = patient_http.post(f"http://{large_stacks.http_url}/v2/models/validate/generate", json=body)
    assert "constraint_too_large" in answer.json()["constraint_report"]
    assert eventually(large_stacks.ready)


def test_many_small_chunks_do_not_end_the_server(large_stacks: TritonServer) -> None:
    with socket.create_connection(("127.0.0.1", large_stacks.http_port), timeout=60) as connection:
        assert answer_to_small_chunks(connection).startswith(b"HTTP/1.1 500"), "it is no JSON"
    assert eventually(large_stacks.ready)


def test_no_key_is_in_a_log_a_metric_or_a_provenance(secured: Secured) -> None:
    """Whoever sent it, right or wrong, and with everything logged that can be."""
    wrong = new_key()
    outputs = []
    for key in secured.one, wrong:
        body = {**tensors("generate"), "x-api-key": key}
        outputs.append(secured.post("generate/generate", body).text)
        outputs.append(secured.post("validate/infer", {"inputs": []}, **{"x-api-key": key}).text)
        with secured.client("grpc", key) as client:
            outputs.append(repr(client.health_check()))
    outputs.append(metrics_text(secured.server))
    log = secured.server.log_file
    assert log is not None
    files = [log, secured.provenance, *log.parent.glob("*.json*")]
    outputs += [file.read_text(errors="replace") for file in files]
    assert any("outcome=ok" in output for output in outputs), "the log was read"
    assert any("signatures" in output for output in outputs), "provenance was read"
    for key in (secured.one, secured.two, secured.management, wrong):
        assert not [output for output in outputs if key in output]


def test_refusals_are_counted(secured: Secured) -> None:
    secured.post("validate/infer", {"inputs": []})
    secured.post("guided_vllm/generate", {"text_input": "x"})
    for pattern in (r'ananke_constraint_refusals_total\{code="unauthenticated"[^}]*\} [1-9]', r'outcome="unauthenticated"[^}]*\} [1-9]'):
        assert wait_for(secured, pattern), pattern


def wait_for(secured: Secured, pattern: str) -> bool:
    return eventually(lambda: re.search(pattern, metrics_text(secured.server)), every=0.1)


def test_no_secret_lies_in_the_folder_of_what_runs(secured: Secured) -> None:
    run = PROJECT / ".ananke" / "run"
    for file in (path for path in run.rglob("*") if path.is_file() and path.stat().st_size < 10 << 20):
        content = file.read_bytes()
        assert not any(key.encode() in content for key in (secured.one, secured.two, secured.management)), file
