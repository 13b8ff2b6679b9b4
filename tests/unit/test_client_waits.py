"""How long the HTTP clients wait: for all of an answer, never for each of its bytes."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import threading
import time
from types import SimpleNamespace

import httpx
import pytest
from certificates import certificates
from client_support import assert_close_wakes
from dripping_server import DrippingServer
from four_clients import make_client
from triton_support import Script, serving
from waiting import SOON, wait_until

from ananke_client import AnankeInferenceHTTPClient, CancelledError, DeadlineExceededError, RetryPolicy, TLSConfig

HEAD = b"HTTP/1.1 200 OK\r\nx: "
BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\n\r\n" + f"data: {json.dumps({'text_output': 'one '})}\n\n".encode()
FAULTY = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 1000\r\n\r\n"


@pytest.fixture(params=["http", "http-async"])
def kind(request):
    return request.param


@pytest.fixture
def client_of(kind, monkeypatch):
    monkeypatch.setattr("ananke_client.http_transport.GRACE", 0.1)
    monkeypatch.setattr("ananke_client.exchange.PROBE_TIMEOUT", 0.5)
    monkeypatch.setattr("ananke_client.exchange.PATIENCE", 0.2)
    return lambda server: make_client(kind, server.port, timeout=0.5, retry=RetryPolicy(attempts=1))


@pytest.fixture
def listener_without_room():
    """Its backlog is full, so that nobody answers the first packet of a connection."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            other = waiting.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        time.sleep(0.2)
        yield SimpleNamespace(port=listener.getsockname()[1])


CALLS = {
    "generate": lambda client: client.generate("x"),
    "generate_stream": lambda client: list(client.generate_stream("x")),
    "validate": lambda client: client.validate("{}"),
    "cancel": lambda client: client.cancel("x"),
    "model_metadata": lambda client: client.model_metadata(),
    "model_statistics": lambda client: client.model_statistics(),
}


@pytest.mark.parametrize("quick", [HEAD, BODY, FAULTY], ids=["head", "body", "error"])
@pytest.mark.parametrize("call", CALLS)
def test_a_timeout_bounds_the_whole_answer(client_of, call, quick):
    with DrippingServer(quick) as server, client_of(server) as client:
        begun = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            CALLS[call](client)
        assert 0.4 < time.monotonic() - begun < SOON


@pytest.mark.parametrize("quick", [HEAD, BODY], ids=["head", "body"])
def test_all_questions_about_health_have_one_timeout(client_of, quick):
    with DrippingServer(quick) as server, client_of(server) as client:
        begun = time.monotonic()
        assert "deadline_exceeded" in client.health_check().error
        assert time.monotonic() - begun < SOON


def test_slow_answers_about_health_share_the_timeout(kind, monkeypatch):
    """Each takes 0.9 s, on a connection of its own: the first has time to spare, and the fourth has not enough."""
    monkeypatch.setattr("ananke_client.exchange.PROBE_TIMEOUT", 3.0)
    answer = BODY.replace(b"1000\r\n", b"1\r\nconnection: close\r\n")
    with DrippingServer(answer, pace=0.9) as server, make_client(kind, server.port) as client:
        health = client.health_check()
    assert health.live
    assert "deadline_exceeded" in health.error


def test_a_deadline_that_passes_between_two_deltas_is_kept(client_of):
    with DrippingServer(STREAM) as server, client_of(server) as client:
        stream = client.generate_stream("x", timeout=2)
        assert next(stream) == "one "
        time.sleep(2.2)
        begun = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            next(stream)
        assert time.monotonic() - begun < SOON


@pytest.mark.parametrize("quick", [b"", HEAD, BODY], ids=["nothing", "head", "body"])
def test_closing_ends_every_wait(kind, quick):
    """Whatever a thread or a task waits for, another one's close of the client wakes it."""
    errors = []

    def wait_for(call):
        try:
            CALLS[call](client)
        except CancelledError as error:
            errors.append(error)

    with DrippingServer(quick, pace=60) as server, make_client(kind, server.port, timeout=60) as client:
        threads = [threading.Thread(target=wait_for, args=(call,)) for call in ("generate", "generate_stream", "validate")]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.open == 3)
        time.sleep(0.2)
        begun = time.monotonic()
        client.close()
        for thread in threads:
            thread.join(SOON)
        assert time.monotonic() - begun < SOON
    assert len(errors) == 3


def test_a_stream_that_nobody_holds_keeps_neither_connection_nor_thread(kind, monkeypatch):
    monkeypatch.setattr("ananke_client.lease.LEASE", 0.3)
    monkeypatch.setattr("ananke_client.exchange.PATIENCE", 0.2)
    with DrippingServer(STREAM) as server, make_client(kind, server.port) as client:
        before = threading.active_count()
        streams = [client.generate_stream("x") for _ in range(3)]
        for stream in streams:
            next(stream)
        assert server.open >= 3
        assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
        del streams, stream
        gc.collect()
        wait_until(lambda: server.open == 0)
    assert threading.active_count() <= before + 1


def test_closing_wakes_who_reads_over_a_transport_of_ones_own():
    server, transport = DrippingServer(STREAM, pace=60), httpx.HTTPTransport()
    with server, AnankeInferenceHTTPClient(url=f"127.0.0.1:{server.port}", transport=transport) as client:
        stream = client.generate_stream("x")
        assert next(stream) == "one "
        assert_close_wakes(stream, stream.close)


def test_no_answer_to_a_connection_costs_no_more_than_timeout_and_grace(client_of, listener_without_room):
    with client_of(listener_without_room) as client:
        begun = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            client.generate("x")
        assert time.monotonic() - begun < SOON


def test_closing_wakes_who_waits_on_an_encrypted_connection(kind, tmp_path):
    files = certificates(tmp_path)
    script = Script()
    own = {"certificate_file": files["client"].certificate, "key_file": files["client"].key}
    with (
        serving(script, "http", certificates=(files["authority"].certificate, files["server"].certificate, files["server"].key)) as port,
        make_client(kind, port, tls=TLSConfig(ca_file=files["authority"].certificate, **own)) as client,
    ):
        stream = client.generate_stream("hang")
        assert next(stream) == "one "
        assert_close_wakes(stream, client.close)
