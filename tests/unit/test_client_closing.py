"""The four clients when they, their streams or their batches are ended early: nothing passes for whole, nothing waits, nothing runs on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from four_clients import FOUR, make_client
from waiting import PATIENCE, SOON, wait_until

from ananke_client import CancelledError, DeadlineExceededError, GenerationConfig, RetryPolicy
from ananke_client.load import run_load

BLOCKING = [kind for kind in FOUR if not kind.endswith("async")]
MANY = {
    "generate_batch": lambda client: client.generate_batch(["silent"] * 9, concurrency=3),
    "run_load": lambda client: run_load(client, "silent", None, GenerationConfig(), requests=9, concurrency=3),
}

pytestmark = pytest.mark.usefixtures("without_renewals")


@pytest.fixture
def client(kind, port):
    with make_client(kind, port, timeout=20) as client:
        yield client


def test_a_client_closed_between_two_deltas_lets_no_beginning_pass_for_the_whole(client, script):
    stream = client.generate_stream("words 5")
    assert next(stream) == script.words("words 5")[0]
    client.close()
    with pytest.raises(CancelledError, match="the client was closed"):
        next(stream)
    assert list(stream) == []


def test_so_does_a_stream_closed_between_two_deltas_or_before_the_first(client):
    begun, unread = client.generate_stream("words 5"), client.generate_stream("words 5")
    next(begun)
    for stream in (begun, unread):
        stream.close()
        with pytest.raises(CancelledError, match="closed"):
            next(stream)


def test_closing_behind_the_final_response_takes_nothing_away(client, script):
    whole, unended = client.generate_stream("words 3"), client.generate_stream("linger")
    assert list(whole) == script.words("words 3")
    delivered = [next(unended) for _ in range(3)]
    for stream in (whole, unended):
        stream.close()
        assert list(stream) == []
    assert (whole.result.text, unended.result.text) == ("".join(script.words("words 3")), "".join(delivered))


def test_a_failing_callback_cancels_what_is_under_way(client, script):
    """Its server answers no cancel with an end: the client ends the waits itself."""
    script.pace = 0.5  # the others have come by then
    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        client.generate_batch(["words 2", *["silent"] * 6], concurrency=3, progress=lambda done, total: 1 / 0)
    assert time.monotonic() - begun < SOON
    # The third may be cancelled before it has come.
    wait_until(lambda: len({name for _, name in script.commands} & set(script.attempts)) >= 2)
    assert {verb for verb, _ in script.commands} == {"cancel"}
    assert script.tries["silent"] <= 3


@pytest.mark.parametrize("kind", BLOCKING, indirect=True)
@pytest.mark.parametrize("call", MANY)
def test_an_interruption_cancels_what_is_under_way(client, script, call, interruptible):
    def interrupt():
        wait_until(lambda: script.tries["silent"] == 3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        MANY[call](client)
    assert time.monotonic() - begun < SOON
    assert script.tries["silent"] == 3
    assert sorted(script.commands) == sorted(("cancel", name) for name in script.attempts)


def test_a_retrys_wait_ends_with_the_client_or_the_batch(kind, port, script, monkeypatch):
    monkeypatch.setattr("random.uniform", lambda least, most: most)
    retry = RetryPolicy(first=60, longest=60)

    def close():
        wait_until(lambda: script.tries["fail overloaded 9"])
        client.close()

    with make_client(kind, port, retry=retry) as client:
        begun = time.monotonic()
        with pytest.raises(ZeroDivisionError):
            client.generate_batch(["fail overloaded 8", "words 2"], progress=lambda done, total: 1 / 0)
        closing = threading.Thread(target=close)
        closing.start()
        with pytest.raises(CancelledError, match="the client was closed"):
            client.generate("fail overloaded 9")
        closing.join()
        assert time.monotonic() - begun < SOON
    with make_client(kind, port, retry=retry) as client:
        closing = threading.Timer(0.5, client.close)
        closing.start()
        with pytest.raises(CancelledError, match="the client is closed"):
            client.validate({"fail": 9})
        closing.join()
        assert time.monotonic() - begun < 2 * SOON


@pytest.mark.parametrize("kind", BLOCKING, indirect=True)
def test_a_closed_client_leaves_no_thread(client):
    stream = client.generate_stream("hang")
    next(stream)
    client.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "ananke-beside"]


def test_a_cancel_beside_the_calls_goes_out_before_the_client_is_closed(kind, port, script, monkeypatch):
    for module in ("grpc_transport", "http_transport"):
        monkeypatch.setattr(f"ananke_client.{module}.GRACE", 0.1)
    with make_client(kind, port) as client, pytest.raises(DeadlineExceededError):
        client.generate("silent", timeout=1)
    assert script.commands == [("cancel", script.attempts[0])]


LEAVING = """
import sys
from ananke_client import AnankeInferenceClient, AnankeInferenceHTTPClient, lease
lease.LEASE = 600
kind, port = sys.argv[1:]
client = {"grpc": AnankeInferenceClient, "http": AnankeInferenceHTTPClient}[kind](url=f"127.0.0.1:{port}")

def texts():
    with client, client.generate_stream("hang") as stream:
        yield from stream

begun, stream = texts(), client.generate_stream("hang")
assert next(begun) == next(stream) == "one "
"""


@pytest.mark.parametrize("kind", BLOCKING, indirect=True)
def test_a_program_that_ends_amid_streams_cancels_them_and_ends(kind, port, script):
    """What it left open is taken down when no other thread runs any more."""
    done = subprocess.run([sys.executable, "-c", LEAVING, kind, str(port)], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(script.commands) == sorted(("cancel", name) for name in script.attempts)
