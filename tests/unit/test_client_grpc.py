"""The gRPC clients against a server in this process that speaks as Triton does."""

import json
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from blocking_client import BlockingClient
from tritonclient.grpc import service_pb2, service_pb2_grpc
from waiting import PATIENCE

from ananke_client import (
    AnankeInferenceClient,
    AsyncAnankeInferenceClient,
    CancelledError,
    DeadEndError,
    DeadlineExceededError,
    EngineUnavailableError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    RetryPolicy,
    UnauthenticatedError,
)
from ananke_client.grpc_codec import decode_outputs, target_of
from ananke_client.provenance import Envelope

REPORT = {"accepted": True, "kind": "json_schema", "guarantee": "exact", "constraint_satisfied": True}


STATUS = {
    **{"state": "running", "ready": True, "model": "m", "device": "cpu", "uptime_seconds": 9.5, "pending": 2, "max_pending": 8},
    **{"running": 1, "waiting": 1, "kv_cache_usage": 0.25, "last_error": {"code": "internal", "at": "2026-11-24T00:00:00Z"}, "later": 1},
}
ONCE = RetryPolicy(attempts=1)
CLIENTS = {
    "sync": AnankeInferenceClient,
    "async": lambda **settings: BlockingClient(lambda: AsyncAnankeInferenceClient(**settings)),
}


def infer_response(**outputs):
    response = service_pb2.ModelInferResponse()
    for name, value in outputs.items():
        empty = value is None or name == "logprobs"
        datatype = "BYTES" if isinstance(value, str) or empty else "FP32" if isinstance(value, float) else "UINT32"
        response.outputs.add(name=name, datatype=datatype, shape=[0 if empty else 1])
        if empty:
            response.raw_output_contents.append(b"")
        elif isinstance(value, str):
            response.raw_output_contents.append(struct.pack("<I", len(value.encode())) + value.encode())
        else:
            response.raw_output_contents.append(struct.pack("<f" if isinstance(value, float) else "<I", value))
    return response


def stream_response(**outputs):
    return service_pb2.ModelStreamInferResponse(infer_response=infer_response(**outputs))


def final_response(text, **over):
    fields = {
        "text_output": text,
        "finish_reason": "stop",
        "cumulative_logprob": -1.5,
        "logprobs": None,
        "num_input_tokens": 3,
        "num_output_tokens": 2,
        "constraint_report": json.dumps(REPORT),
        "provenance": Envelope.of({"key": 1}).to_bytes().decode(),
        "metrics": None,
    }
    return stream_response(**{**fields, **over})


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Does what the prompt says."""

    def __init__(self):
        self.requests, self.ended = [], threading.Event()
        self.engine, self.models = json.dumps(STATUS), {"generate", "validate"}

    def ModelStreamInfer(self, requests, context):
        assert "triton_grpc_error" not in dict(context.invocation_metadata()), "Triton 2.51 dies of it"
        (request,) = list(requests)  # ends only if the client closes its side
        self.requests.append(request)
        if "status" in request.parameters:
            assert request.parameters["status"].bool_param
            yield stream_response(status=self.engine)
            return
        texts = dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True))
        prompt = texts["text_input"][4:].decode()
        context.add_callback(self.ended.set)
        yield from getattr(self, prompt.split(":")[0])(prompt, context)

    def echo(self, prompt, context):
        for word in prompt.split():
            yield stream_response(text_output=word)
        yield final_response("é", finish_reason="length")

    def status(self, prompt, context):
        _, code, text = prompt.split(":")
        context.abort(grpc.StatusCode[code], text)
        yield

    def midway(self, prompt, context):
        yield stream_response(text_output="a")
        context.abort(grpc.StatusCode.INTERNAL, "in ensemble 'generate', [dead_end] no token")

    def body(self, prompt, context):
        yield service_pb2.ModelStreamInferResponse(error_message=prompt.removeprefix("body:"))

    def unfinished(self, prompt, context):
        yield stream_response(text_output="a")

    def endless(self, prompt, context):
        yield stream_response(text_output="a")
        while context.is_active():
            self.ended.wait(0.02)

    def large(self, prompt, context):
        yield final_response("x" * (5 << 20))

    def ModelInfer(self, request, context):
        self.requests.append(request)
        constraint = json.loads(request.raw_input_contents[0][4:])
        if constraint.get("type") == "refused":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "[unsupported_constraint] not that")
        return infer_response(constraint_report=json.dumps({"accepted": constraint.get("type") == "regex"}))

    def ServerLive(self, request, context):
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request, context):
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, request, context):
        if request.name not in self.models:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelMetadata(self, request, context):
        if request.name != "generate":
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        reply = service_pb2.ModelMetadataResponse(name="generate", platform="ensemble", versions=["1"])
        reply.inputs.add(name="text_input", datatype="BYTES", shape=[-1])
        return reply

    def ModelStatistics(self, request, context):
        reply = service_pb2.ModelStatisticsResponse()
        entry = reply.model_stats.add(name=request.name, version="1", last_inference=5, inference_count=3)
        entry.inference_stats.success.count, entry.inference_stats.success.ns = 3, 1 << 40
        return reply

    def ServerMetadata(self, request, context):
        return service_pb2.ServerMetadataResponse(name="triton", version="2.51.0")


@pytest.fixture
def servicer():
    return Servicer()


@pytest.fixture(params=["sync", "async"])
def make(request):
    return CLIENTS[request.param]


@pytest.fixture
def client(servicer, make):
    server = grpc.server(ThreadPoolExecutor(20), options=[("grpc.max_send_message_length", -1)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with make(url=f"127.0.0.1:{port}", timeout=20, retry=ONCE) as client:
        yield client
    server.stop(None).wait()


def test_generate(client, servicer):
    result = client.generate("echo: one", {"type": "json_schema"}, timeout=20, request_id="r")
    assert (result.text, result.finish_reason, result.request_id) == ("echo:oneé", "length", "r")
    assert (result.guarantee, result.constraint_satisfied, result.cumulative_logprob) == ("exact", True, -1.5)
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (3, 2)
    assert (result.provenance, result.metrics) == ({"key": 1}, {})
    (request,) = servicer.requests
    assert (request.model_name, request.id) == ("generate", "r")
    assert 0 < request.parameters["deadline_ms"].int64_param <= 20_000
    inputs = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in request.inputs}
    assert inputs["constraint"] == inputs["text_input"] == ("BYTES", [1])
    assert inputs["stream"] == ("BOOL", [1])
    assert request.raw_input_contents[list(inputs).index("stream")] == b"\x00"
    assert request.raw_input_contents[list(inputs).index("exclude_input_in_output")] == b"\x01"


def test_stream(client, servicer):
    with client.generate_stream("echo: a b") as stream:
        assert list(stream) == ["echo:", "a", "b", "é"]
    assert stream.result.text == "echo:abé"
    tensors = [tensor.name for tensor in servicer.requests[0].inputs]
    assert servicer.requests[0].raw_input_contents[tensors.index("stream")] == b"\x01"
    assert "constraint" not in tensors


@pytest.mark.parametrize(
    ("prompt", "error", "text"),
    [
        ("status:UNAVAILABLE:in ensemble 'generate', [overloaded] full", OverloadedError, "full"),
        ("status:UNAVAILABLE:no versions", EngineUnavailableError, "no versions"),
        ("status:DEADLINE_EXCEEDED:late", DeadlineExceededError, "late"),
        ("status:CANCELLED:gone", CancelledError, "gone"),
        ("status:INVALID_ARGUMENT:shape", InvalidRequestError, "shape"),
        ("status:NOT_FOUND:model", InvalidRequestError, "model"),
        ("status:INTERNAL:boom", InternalError, "boom"),
        ("body:[overloaded] full", OverloadedError, "full"),
        ("body:Request for unknown model: 'generate' is not found", InvalidRequestError, "not found"),
        ("body:GRPC server is shutting down", EngineUnavailableError, "shutting down"),
        ("body:Exceeds maximum queue size", OverloadedError, "queue"),
        ("body:Request for unknown model: 'm' has no available versions", EngineUnavailableError, "versions"),
        ("status:UNAUTHENTICATED:no key", UnauthenticatedError, "no key"),
        ("status:PERMISSION_DENIED:not yours", UnauthenticatedError, "not yours"),
        ("status:RESOURCE_EXHAUSTED:slow down", OverloadedError, "slow down"),
        ("status:RESOURCE_EXHAUSTED:Received message larger than max (9 vs. 4)", InvalidRequestError, "larger"),
        ("unfinished", EngineUnavailableError, "without a final response"),
    ],
)
def test_errors(client, prompt, error, text):
    with pytest.raises(error, match=text):
        client.generate(prompt)


def test_stream_fails_midway(client):
    stream = client.generate_stream("midway")
    assert next(stream) == "a"
    with pytest.raises(DeadEndError, match="no token"):
        next(stream)
    assert list(stream) == []
    with pytest.raises(RuntimeError, match="no result"):
        _ = stream.result


def test_early_close_cancels(client, servicer):
    with client.generate_stream("endless") as stream:
        assert next(stream) == "a"
        assert not servicer.ended.is_set()
    assert servicer.ended.wait(PATIENCE)
    with pytest.raises(CancelledError, match="closed"):
        next(stream)
    assert list(stream) == []


def test_close_from_another_thread_ends_the_wait(client, servicer):
    stream = client.generate_stream("endless")
    assert next(stream) == "a"
    closing = threading.Timer(0.1, stream.close)
    closing.start()
    with pytest.raises(CancelledError):
        next(stream)
    closing.join()
    assert servicer.ended.wait(PATIENCE)


def test_deadline_holds_without_the_server(client, monkeypatch):
    monkeypatch.setattr("ananke_client.grpc_transport.GRACE", 0.0)
    with pytest.raises(DeadlineExceededError):
        client.generate("endless", timeout=0.2)


def test_sixteen_threads_share_a_client(client):
    barrier = threading.Barrier(16)

    def call(index):
        barrier.wait(PATIENCE)
        with client.generate_stream(f"echo: {index}") as stream:
            next(stream)
            barrier.wait(PATIENCE)  # every stream is open at once
            list(stream)
            return stream.result.text

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(call, range(16))) == [f"echo:{index}é" for index in range(16)]


def test_large_response(client):
    assert len(client.generate("large").text) == 5 << 20


def test_conveniences_send_constraints(client, servicer):
    client.generate_with_json_schema("echo", {"const": None})
    client.generate_with_regex("echo", "a+")
    client.generate_with_grammar("echo", 'start: "a"')
    client.generate_with_choice("echo", ["a", "b"])
    sent = [json.loads(request.raw_input_contents[-1][4:]) for request in servicer.requests]
    assert sent == [
        {"type": "json_schema", "schema": {"const": None}},
        {"type": "regex", "pattern": "a+"},
        {"type": "grammar", "syntax": "lark", "grammar": 'start: "a"'},
        {"type": "choice", "choices": ["a", "b"]},
    ]


def test_validate(client, servicer):
    assert client.validate({"type": "regex"}).accepted
    assert [output.name for output in servicer.requests[0].outputs] == ["constraint_report"]
    assert not client.validate({"type": "x"}).accepted
    assert client.validate({"type": "refused"}).errors[0].code == "unsupported_constraint"


def test_health(client, servicer):
    health = client.health_check()
    assert (health.live, health.ready, health.server_version, health.error) == (True, True, "2.51.0", None)
    assert health.models == {"generate": True, "validate": True}
    assert (health.status.state, health.status.kv_cache_usage, health.status.last_error.code) == ("running", 0.25, "internal")
    assert servicer.requests[-1].model_name == "guided_vllm"


def test_a_server_whose_engine_or_model_is_not_ready_is_not(client, servicer):
    servicer.models.remove("validate")
    health = client.health_check()
    assert (health.live, health.ready, health.models) == (True, False, {"generate": True, "validate": False})
    servicer.models.add("validate")
    servicer.engine = json.dumps(STATUS | {"state": "failed", "ready": False})
    health = client.health_check()
    assert (health.live, health.ready, health.status.state) == (True, False, "failed")


def test_a_status_that_is_none_is_an_error(client, servicer):
    servicer.engine = "{}"
    health = client.health_check()
    assert (health.live, health.ready, health.status, health.server_version) == (True, False, None, "2.51.0")
    assert "status is malformed" in health.error


def test_metadata_and_statistics(client):
    metadata = client.model_metadata()
    assert (metadata.name, metadata.platform, metadata.versions) == ("generate", "ensemble", ["1"])
    assert [(tensor.name, tensor.datatype, tensor.shape) for tensor in metadata.inputs] == [("text_input", "BYTES", [-1])]
    with pytest.raises(InvalidRequestError, match="unknown model"):
        client.model_metadata("other")
    (statistics,) = client.model_statistics("validate")
    assert (statistics.name, statistics.inference_count, statistics.last_inference) == ("validate", 3, 5)
    assert (statistics.inference_stats.success.ns, statistics.inference_stats.fail.count) == (1 << 40, 0)


def test_unreachable_server(make):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        with make(url=f"127.0.0.1:{taken.getsockname()[1]}", retry=ONCE) as client:
            health = client.health_check()
            assert (health.live, health.models) == (False, {})
            assert "UNAVAILABLE" in health.error
            with pytest.raises(EngineUnavailableError):
                client.generate("hi")
            with pytest.raises(EngineUnavailableError):
                client.validate("{}")


@pytest.mark.parametrize(("datatype", "raw"), [("BYTES", b"\x01"), ("UINT32", b"\x01"), ("FP16", b"\x01\x02")])
def test_malformed_tensors(datatype, raw):
    response = service_pb2.ModelInferResponse(raw_output_contents=[raw])
    response.outputs.add(name="text_output", datatype=datatype, shape=[1])
    with pytest.raises(InternalError, match="text_output"):
        decode_outputs(response)


def test_target(monkeypatch):
    monkeypatch.delenv("ANANKE_GRPC_URL", raising=False)
    assert target_of(None) == "localhost:8001"
    monkeypatch.setenv("ANANKE_GRPC_URL", "far:1")
    assert target_of(None) == "far:1"
    assert target_of("near:2") == "near:2"
    with pytest.raises(InvalidRequestError, match="scheme"):
        target_of("http://near:2")
