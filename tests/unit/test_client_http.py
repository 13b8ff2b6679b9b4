"""The HTTP clients against a transport that answers as Triton does."""

import json

import httpx
import pytest
from blocking_client import BlockingClient

from ananke_client import (
    AnankeInferenceHTTPClient,
    AsyncAnankeInferenceHTTPClient,
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
from ananke_client.http_codec import base_url_of
from ananke_client.provenance import Envelope

REPORT = {"accepted": True, "kind": "regex", "guarantee": "exact", "constraint_satisfied": True}
FINAL = {
    "id": "r",
    "model_name": "generate",
    "text_output": "b",
    "finish_reason": "stop",
    "cumulative_logprob": [],
    "logprobs": "",
    "num_input_tokens": 3,
    "num_output_tokens": 2,
    "constraint_report": json.dumps(REPORT),
    "provenance": Envelope.of({"key": 1}).to_bytes().decode(),
    "metrics": "{}",
}


CLIENTS = {
    "sync": AnankeInferenceHTTPClient,
    "async": lambda **settings: BlockingClient(lambda: AsyncAnankeInferenceHTTPClient(**settings)),
}


@pytest.fixture(params=["sync", "async"])
def client_of(request):
    """Makes a client whose requests a handler answers."""
    made = []

    def make(handler, **over):
        settings = {"transport": httpx.MockTransport(handler), "retry": RetryPolicy(attempts=1), **over}
        made.append(CLIENTS[request.param](**settings))
        return made[-1]

    yield make
    for client in made:
        with client:
            pass


@pytest.fixture
def answering(client_of):
    def answer(status=200, **response):
        def handler(request):
            cancels = request.method == "POST" and "cancel" in json.loads(request.content)
            return httpx.Response(200, json={"running": True}) if cancels else httpx.Response(status, **response)

        return client_of(handler)

    return answer


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in the chunks given; an exception among them is raised."""

    def __init__(self, *chunks):
        self.chunks, self.read, self.closed = chunks, 0, False

    def __iter__(self):
        for chunk in self.chunks:
            self.read += 1
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def __aiter__(self):
        for chunk in self:
            yield chunk

    def close(self):
        self.closed = True

    async def aclose(self):
        self.closed = True


def event(**outputs):
    return f"data: {json.dumps(outputs, ensure_ascii=False)}\n\n".encode()


def test_generate(client_of):
    seen = {}

    def handler(request):
        seen.update(path=request.url.path, body=json.loads(request.content))
        return httpx.Response(200, json=FINAL)

    with client_of(handler, model_name="mine") as client:
        result = client.generate("hi", {"type": "regex", "pattern": "é"}, timeout=20, request_id="r")
    assert (result.text, result.constraint_satisfied, result.guarantee) == ("b", True, "exact")
    assert (result.cumulative_logprob, result.provenance) == (None, {"key": 1})
    assert seen["path"] == "/v2/models/mine/generate"
    body = seen["body"]
    assert (body["id"], body["text_input"], body["stream"]) == ("r", "hi", False)
    assert 0 < body["deadline_ms"] <= 20_000
    assert json.loads(body["constraint"]) == {"type": "regex", "pattern": "é"}
    assert body["sampling_parameters"] == "{}"


def test_stream_survives_any_cut(answering):
    """Chunks end anywhere, in a character too, and a text may hold what Unicode calls a line end."""
    text = "é\u2028\u0085\r|"
    body = event(text_output=text) + event(text_output="") + event(**FINAL)
    chunks = Chunks(*(body[at : at + 1] for at in range(len(body))))
    with answering(stream=chunks).generate_stream("hi") as stream:
        assert list(stream) == [text, "b"]
    assert stream.result.text == text + "b"
    assert chunks.closed


def test_stream_closed_early(answering):
    chunks = Chunks(*[event(text_output="a")] * 9)
    stream = answering(stream=chunks).generate_stream("hi")
    assert next(stream) == "a"
    assert not chunks.closed
    stream.close()
    assert (chunks.closed, chunks.read) == (True, 1)
    with pytest.raises(CancelledError, match="closed"):
        next(stream)
    assert list(stream) == []
    with pytest.raises(RuntimeError, match="no result"):
        _ = stream.result


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (event(error="in ensemble 'generate', [dead_end] no token"), DeadEndError),
        (event(error="boom"), InternalError),
        (b"data: {\n\n", InternalError),
        (httpx.ReadError("reset"), EngineUnavailableError),
        (httpx.ReadTimeout("slow"), DeadlineExceededError),
        (b"", EngineUnavailableError),
    ],
)
def test_stream_fails_midway(answering, last, error):
    chunks = Chunks(event(text_output="a"), last)
    stream = answering(stream=chunks).generate_stream("hi")
    assert next(stream) == "a"
    with pytest.raises(error):
        next(stream)
    assert chunks.closed
    assert list(stream) == []


@pytest.mark.parametrize(
    ("status", "answer", "error", "text"),
    [
        (400, {"json": {"error": "in ensemble 'generate', [overloaded] full"}}, OverloadedError, "full"),
        (400, {"content": event(error="[dead_end] no token")}, DeadEndError, "no token"),
        (400, {"json": {"error": "unexpected shape"}}, InvalidRequestError, "unexpected shape"),
        (404, {"json": {"error": "unknown model"}}, InvalidRequestError, "unknown model"),
        (499, {"json": {"error": "gone"}}, CancelledError, "gone"),
        (500, {"json": {"error": "non-string"}}, InternalError, "non-string"),
        (502, {"text": "<html>bad gateway"}, EngineUnavailableError, "bad gateway"),
        (503, {"json": {"error": "not ready"}}, EngineUnavailableError, "not ready"),
        (504, {"json": {"error": "late"}}, DeadlineExceededError, "late"),
        (401, {"text": "no key"}, UnauthenticatedError, "no key"),
        (403, {"json": {"error": "This API is restricted"}}, UnauthenticatedError, "restricted"),
        (413, {"text": "too large"}, InvalidRequestError, "too large"),
        (429, {"text": "slow down"}, OverloadedError, "slow down"),
        (400, {"json": {"error": "Exceeds maximum queue size"}}, OverloadedError, "queue"),
        (400, {"json": {"error": "Request for unknown model: 'm' has no available versions"}}, EngineUnavailableError, "versions"),
        (400, {"json": {"error": "in ensemble 'generate', 'm' version 1 is not at ready state"}}, EngineUnavailableError, "ready"),
        (404, {"text": "<html>not ready</html>"}, InvalidRequestError, "not ready"),
    ],
)
@pytest.mark.parametrize("call", ["generate", "generate_stream"])
def test_statuses(answering, call, status, answer, error, text):
    with pytest.raises(error, match=text):
        list(getattr(answering(status, **answer), call)("hi"))


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), (None, None)])
def test_a_proxy_says_when_to_come_again(answering, header, seconds):
    with pytest.raises(OverloadedError) as raised:
        answering(429, headers={} if header is None else {"retry-after": header}).generate("hi")
    assert raised.value.retry_after == seconds


def test_what_passes_is_tried_again(client_of):
    answers = [
        httpx.Response(429, headers={"retry-after": "0"}),
        httpx.Response(400, json={"error": "Request for unknown model: 'm' has no available versions"}),
        httpx.Response(400, json={"error": "Exceeds maximum queue size"}),
    ]

    def handler(request):
        if "cancel" in json.loads(request.content):
            return httpx.Response(200, json={"running": False})
        return answers.pop(0) if answers else httpx.Response(200, json=FINAL)

    assert client_of(handler, retry=RetryPolicy(attempts=4, first=0.01)).generate("hi").text == "b"


@pytest.mark.parametrize("call", ["generate", "generate_stream"])
def test_a_body_that_ends_before_its_first_text_is_tried_again(client_of, call):
    bodies = [b"", b"", event(**FINAL) if call == "generate_stream" else json.dumps(FINAL).encode()]

    def handler(request):
        cancels = "cancel" in json.loads(request.content)
        return httpx.Response(200, json={"running": False}) if cancels else httpx.Response(200, stream=Chunks(bodies.pop(0)))

    client = client_of(handler, retry=RetryPolicy(attempts=3, first=0.01))
    assert (client.generate("hi").text if call == "generate" else "".join(client.generate_stream("hi"))) == "b"


def test_a_key_that_is_refused_is_told_by_health(answering):
    health = answering(401, text="no key").health_check()
    assert (health.live, health.ready) == (False, False)
    assert "unauthenticated" in health.error


DEEP = "[" * 100_000


@pytest.mark.parametrize("answer", [{"text": DEEP}, {"content": f"data: {DEEP}\n\n".encode()}, {"text": "[]"}])
@pytest.mark.parametrize("call", ["generate", "generate_stream"])
def test_an_answer_that_is_no_object_is_an_error_of_the_tree(answering, call, answer):
    if call == "generate_stream" and "text" in answer:
        answer = {"content": f"data: {answer['text']}\n\n".encode()}
    with pytest.raises(InternalError, match="JSON"):
        list(getattr(answering(200, **answer), call)("hi"))
    with pytest.raises(EngineUnavailableError):
        answering(503, **answer).generate("hi")


@pytest.mark.parametrize("outputs", [5, [5], {"name": "constraint_report"}, None])
def test_a_validation_without_a_report_is_an_error_of_the_tree(answering, outputs):
    with pytest.raises(InternalError, match="no constraint_report"):
        answering(200, json={"outputs": outputs}).validate("{}")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (httpx.ConnectError("refused"), EngineUnavailableError),
        (httpx.ConnectTimeout("far"), EngineUnavailableError),
        (httpx.ReadTimeout("slow"), DeadlineExceededError),
        (httpx.RemoteProtocolError("hung up"), EngineUnavailableError),
    ],
)
def test_transport_faults(client_of, fault, error):
    def handler(request):
        raise fault

    client = client_of(handler)
    with pytest.raises(error, match=str(fault)):
        client.generate("hi")
    with pytest.raises(error, match=str(fault)):
        client.validate("{}")
    health = client.health_check()
    assert (health.live, health.ready, health.models) == (False, False, {})
    assert str(fault) in health.error


def test_validate(client_of):
    def handler(request):
        body = json.loads(request.content)
        assert request.url.path == "/v2/models/validate/infer"
        assert body["outputs"] == [{"name": "constraint_report"}]
        assert body["inputs"] == [{"name": "constraint", "datatype": "BYTES", "shape": [1], "data": ['{"type": "x"}']}]
        report = {"accepted": False, "errors": [{"code": "invalid_constraint", "message": "no type x", "pointer": "/type"}]}
        return httpx.Response(200, json={"outputs": [{"name": "constraint_report", "shape": [1], "data": [json.dumps(report)]}]})

    report = client_of(handler).validate({"type": "x"})
    assert not report.accepted
    assert str(report.errors[0]) == "[invalid_constraint] at /type: no type x"


def test_validate_reports_what_cannot_be_sent_or_is_refused(answering):
    client = answering(400, json={"error": "[constraint_too_large] 9 MB"})
    assert client.validate("{}").errors[0].code == "constraint_too_large"
    assert client.validate({"a": object()}).errors[0].code == "invalid_constraint"
    with pytest.raises(InvalidRequestError):
        answering(404, json={"error": "unknown model"}).validate("{}")
    with pytest.raises(InternalError, match="no constraint_report"):
        answering(json={"outputs": []}).validate("{}")


STATUS = {
    **{"state": "running", "ready": True, "model": "m", "device": "cpu", "uptime_seconds": 9.5, "pending": 2, "max_pending": 8},
    **{"running": 1, "waiting": 1, "kv_cache_usage": 0.25, "last_error": None},
}


@pytest.mark.parametrize(("failing", "status", "ready"), [(None, {}, True), ("validate/ready", {}, False), (None, {"ready": False}, False)])
def test_health(client_of, failing, status, ready):
    def handler(request):
        if request.url.path == "/v2":
            return httpx.Response(200, json={"name": "triton", "version": "2.51.0"})
        if request.url.path == "/v2/models/guided_vllm/generate":
            assert json.loads(request.content) == {"status": True}
            return httpx.Response(200, json={"status": json.dumps(STATUS | status)})
        return httpx.Response(400 if failing and request.url.path.endswith(failing) else 200)

    health = client_of(handler).health_check()
    assert (health.live, health.ready, health.server_version, health.error) == (True, ready, "2.51.0", None)
    assert health.models == {"generate": True, "validate": failing is None}
    assert (health.status.model, health.status.pending, health.status.last_error) == ("m", 2, None)


def test_a_server_that_does_not_know_the_command_is_not_ready(client_of):
    def handler(request):
        if request.method == "POST":
            return httpx.Response(400, json={"error": "[invalid_request] unknown input or parameter 'status'"})
        return httpx.Response(200, json={"version": "2.51.0"})

    health = client_of(handler).health_check()
    assert (health.live, health.ready, health.status) == (True, False, None)
    assert "status" in health.error


def test_url(monkeypatch):
    monkeypatch.delenv("ANANKE_HTTP_URL", raising=False)
    assert base_url_of(None) == "http://localhost:8000"
    monkeypatch.setenv("ANANKE_HTTP_URL", "far:1")
    assert base_url_of(None) == "http://far:1"
    assert base_url_of("https://near") == "https://near"
