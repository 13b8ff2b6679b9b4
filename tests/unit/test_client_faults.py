"""The four clients against servers and connections that fail: what is tried again, what is not, and what is never lost."""

from __future__ import annotations

import gc
import threading
import time

import pytest
from client_support import assert_close_wakes
from fault_proxy import FaultProxy
from four_clients import make_client
from triton_support import Script, serving
from waiting import PATIENCE, SOON, wait_until

from ananke_client import (
    AnankeError,
    BatchItem,
    CancelledError,
    DeadlineExceededError,
    EngineUnavailableError,
    ErrorCode,
    InvalidRequestError,
    OverloadedError,
    RetryPolicy,
)
from ananke_client.request import LEASE

QUICK = RetryPolicy(attempts=4, first=0.01, longest=0.05)
PATIENT = RetryPolicy(attempts=40, first=0.05, factor=1.3, longest=0.4)

pytestmark = pytest.mark.usefixtures("without_renewals")


@pytest.fixture
def client(kind, port):
    with make_client(kind, port, timeout=20, retry=QUICK) as client:
        yield client


@pytest.mark.parametrize("call", ["generate", "generate_stream"])
@pytest.mark.parametrize("code", ["overloaded", "engine_unavailable"])
def test_what_may_succeed_later_is_tried_again(client, script, call, code):
    prompt = f"fail {code} 2"
    if call == "generate":
        assert client.generate(prompt).text == "".join(script.words(prompt))
    else:
        with client.generate_stream(prompt) as stream:
            assert list(stream) == script.words(prompt)
    assert script.tries[prompt] == 3
    assert script.deadlines == sorted(script.deadlines, reverse=True)
    assert 20_000 >= script.deadlines[0] > script.deadlines[-1] > 0


def test_attempts_are_bounded_and_told(client, script):
    with pytest.raises(OverloadedError, match="as told") as raised:
        client.generate("fail overloaded 9")
    assert script.tries["fail overloaded 9"] == 4
    assert raised.value.__notes__ == ["after 4 attempts"]


@pytest.mark.parametrize("code", [code for code in ErrorCode if code not in ("overloaded", "engine_unavailable")])
def test_nothing_else_is_tried_again(client, script, code):
    prompt = f"fail {code} 9"
    with pytest.raises(AnankeError) as raised:
        client.generate(prompt)
    assert raised.value.code == code
    assert script.tries[prompt] == 1


def test_nothing_is_tried_again_behind_a_delivered_token(client, script):
    stream, delivered = client.generate_stream("late overloaded"), []
    with pytest.raises(OverloadedError) as raised:
        delivered.extend(stream)
    assert delivered == ["one "]
    assert raised.value.__notes__ == ["not tried again, since text was delivered"]
    assert list(stream) == []
    assert script.tries["late overloaded"] == 1


def test_a_validation_is_tried_again(client, script):
    assert client.validate({"fail": 2}).accepted
    assert script.tries['{"fail": 2}'] == 3
    with pytest.raises(OverloadedError):
        client.validate({"fail": 9})


def test_no_wait_outlasts_the_timeout(kind, port, script):
    with make_client(kind, port, retry=RetryPolicy(attempts=10, first=60, longest=60)) as client:
        begun = time.monotonic()
        with pytest.raises(OverloadedError):
            client.generate("fail overloaded 9", timeout=0.5)
    assert time.monotonic() - begun < SOON
    assert script.tries["fail overloaded 9"] < 3


@pytest.mark.parametrize("prompt", ["silent", "hang"])
def test_the_deadline_holds_without_the_server(client, prompt, monkeypatch):
    for module in ("grpc_transport", "http_transport"):
        monkeypatch.setattr(f"ananke_client.{module}.GRACE", 0.1)
    begun = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        list(client.generate_stream(prompt, timeout=0.4))
    assert 0.4 < time.monotonic() - begun < SOON


def test_a_call_whose_end_is_late_keeps_its_result(client, script, monkeypatch):
    for module in ("grpc_transport", "http_transport"):
        monkeypatch.setattr(f"ananke_client.{module}.GRACE", 0.1)
    stream = client.generate_stream("linger", timeout=2)
    assert list(stream) == script.words("linger")
    assert stream.result.text == "".join(script.words("linger"))


def test_closing_the_client_ends_its_streams(client):
    stream = client.generate_stream("hang")
    assert next(stream) == "one "
    assert_close_wakes(stream, client.close)


def test_a_closed_client_says_so(kind, port):
    with make_client(kind, port) as client:
        client.close()
        with pytest.raises(CancelledError, match="closed"):
            client.generate("words 2")
        with pytest.raises(CancelledError, match="closed"):
            client.validate("{}")
        assert "closed" in client.health_check().error


def test_closing_a_stream_from_elsewhere_ends_the_wait(client):
    stream = client.generate_stream("hang")
    assert next(stream) == "one "
    assert_close_wakes(stream, stream.close)


def test_connections_are_used_again(client, script):
    for index in range(10):
        client.generate(f"words {index + 1}")
        assert list(client.generate_stream(f"words {index + 1}"))
    assert len(script.peers) == 1


def test_a_batch_keeps_its_order_and_its_other_items(client, script):
    script.pace = 0.01
    seen = []
    prompts = ["words 2", "fail dead_end 9", BatchItem("words 3", request_id="r"), "fail internal 9", "fail overloaded 1", [{"role": "x"}]]
    outcomes = client.generate_batch(prompts, concurrency=3, progress=lambda done, total: seen.append((done, total)))
    assert [getattr(outcome, "text", None) for outcome in outcomes[:3:2]] == ["words 2/0 words 2/1 ", "words 3/0 words 3/1 words 3/2 "]
    assert [getattr(outcome, "code", None) for outcome in outcomes] == [None, "dead_end", None, "internal", None, "invalid_request"]
    assert outcomes[2].request_id == "r"
    assert seen == [(done, 6) for done in range(1, 7)]


def test_a_batch_bounds_what_runs_at_once(client, script):
    script.pace = 0.1
    outcomes = client.generate_batch([f"words 2 {index}" for index in range(20)], concurrency=4)
    assert [outcome.text for outcome in outcomes] == ["".join(script.words(f"words 2 {index}")) for index in range(20)]
    assert script.most == 4
    assert client.generate_batch([]) == []


@pytest.mark.parametrize("arguments", [{"concurrency": 0}, {"concurrency": 1.5}])
def test_a_batch_refuses(client, arguments):
    with pytest.raises(InvalidRequestError, match="concurrency"):
        client.generate_batch(["words 2"], **arguments)
    with pytest.raises(InvalidRequestError, match="one text"):
        client.generate_batch("words 2")


def test_a_failing_callback_ends_the_batch(client, script):
    script.pace = 0.02
    with pytest.raises(ZeroDivisionError):
        client.generate_batch([f"words 2 {index}" for index in range(50)], concurrency=2, progress=lambda done, total: 1 / 0)
    assert len(script.tries) < 20


def test_a_batch_shows_a_bar(client, capsys):
    client.generate_batch(["words 2"] * 3, tqdm=True)
    assert "3/3" in capsys.readouterr().err


def test_faulty_connections_lose_no_item(kind, port, script):
    script.pace = 0.002
    prompts = [f"words {5 + index % 7} {index}" for index in range(60)]
    with FaultProxy(port, faults=16, seed=5, reach=1500) as proxy, make_client(kind, proxy.port, timeout=60, retry=PATIENT) as client:
        outcomes = client.generate_batch(prompts, concurrency=8)
    assert [getattr(outcome, "text", outcome) for outcome in outcomes] == ["".join(script.words(prompt)) for prompt in prompts]
    assert all(proxy.met[fault] for fault in ("drop", "reset", "cut", "delay")), proxy.met
    assert sum(script.tries.values()) > len(prompts)


def test_faulty_connections_deliver_no_token_twice(kind, port, script):
    script.pace = 0.002
    whole = broken = 0
    with FaultProxy(port, faults=16, seed=9, reach=4000) as proxy, make_client(kind, proxy.port, timeout=60, retry=PATIENT) as client:
        for index in range(40):
            prompt, delivered = f"words {5 + index % 7} {index}", []
            try:
                delivered.extend(stream := client.generate_stream(prompt))
            except EngineUnavailableError:
                broken += 1
                assert delivered == script.words(prompt)[: len(delivered)]
                assert delivered, "nothing was delivered, so it should have been tried again"
            else:
                whole += 1
                assert delivered == script.words(prompt)
                assert stream.result.text == "".join(delivered)
    assert proxy.met["reset"] + proxy.met["cut"] >= broken > 0
    assert whole > broken


def test_whatever_ends_a_stream_early_cancels_its_attempt(client, script):
    with client.generate_stream("hang") as stream:
        next(stream)
    assert script.commands == [("cancel", script.attempts[0])]
    stream.close()
    left = client.generate_stream("hang")
    next(left)
    client.close()
    assert script.commands[1:] == [("cancel", script.attempts[1])]


def test_a_deadline_that_the_server_missed_cancels(client, script, monkeypatch):
    for module in ("grpc_transport", "http_transport"):
        monkeypatch.setattr(f"ananke_client.{module}.GRACE", 0.1)
    with pytest.raises(DeadlineExceededError):
        client.generate("silent", timeout=1)
    wait_until(lambda: script.commands == [("cancel", script.attempts[0])])


def test_a_server_that_answers_nothing_costs_no_more_than_timeout_and_grace(kind, monkeypatch):
    for module in ("grpc_transport", "http_transport"):
        monkeypatch.setattr(f"ananke_client.{module}.GRACE", 0.1)
    with (
        serving(Script(), kind.split("-")[0]) as port,
        FaultProxy(port, faults=0, seed=0) as proxy,
        make_client(kind, proxy.port) as client,
    ):
        client.generate("words 2")
        proxy.stall()
        begun = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            client.generate("words 2", timeout=0.3)
        assert time.monotonic() - begun < SOON


def test_what_the_server_has_ended_is_not_cancelled(client, script):
    client.generate("words 2")
    with client.generate_stream("words 2") as stream:
        list(stream)
    for code in ("dead_end", "invalid_request", "overloaded"):
        with pytest.raises(AnankeError):
            client.generate(f"fail {code} 9")
    client.close()
    assert script.commands == []


def test_a_lost_try_is_cancelled_before_the_next_which_has_another_name(client, script):
    client.generate("fail engine_unavailable 2")
    assert len(set(script.attempts)) == 3
    assert script.commands == [("cancel", name) for name in script.attempts[:2]]


def test_cancel_by_request_id(client, script):
    assert client.cancel("mine") is False
    assert script.commands == [("cancel", "mine")]
    with pytest.raises(InvalidRequestError, match="empty"):
        client.cancel("")
    client.close()
    with pytest.raises(CancelledError, match="closed"):
        client.cancel("mine")


def test_closing_is_bounded_when_the_server_has_gone(kind):
    with (
        serving(Script(), kind.split("-")[0]) as port,
        FaultProxy(port, faults=0, seed=0) as proxy,
        make_client(kind, proxy.port) as client,
    ):
        streams = [client.generate_stream("hang") for _ in range(8)]
        for stream in streams:
            next(stream)
        proxy.stall()
        begun = time.monotonic()
        client.close()
        assert time.monotonic() - begun < SOON


def test_open_streams_renew_their_leases(client, script, monkeypatch):
    monkeypatch.setattr("ananke_client.lease.LEASE", 0.3)
    with client.generate_stream("hang") as stream, client.generate_stream("hang") as other:
        next(stream)
        next(other)
        wait_until(lambda: len(script.commands) >= 6)
        assert set(script.commands) == {("renew", name) for name in script.attempts}
    wait_until(lambda: {name for verb, name in script.commands if verb == "cancel"} == set(script.attempts))
    wait_until(lambda: quiet(script))
    with client.generate_stream("hang") as stream:
        next(stream)
        wait_until(lambda: ("renew", script.attempts[2]) in script.commands)


def quiet(script):
    """Whether no command comes for longer than a lease, once what was under way has come."""
    before = len(script.commands)
    time.sleep(0.4)
    return len(script.commands) == before


@pytest.mark.parametrize("call", ["generate", "generate_batch"])
def test_whole_answers_are_waited_for_under_leases_too(client, script, call, monkeypatch):
    monkeypatch.setattr("ananke_client.lease.LEASE", 0.3)
    asked = threading.Thread(target=lambda: client.generate("silent") if call == "generate" else client.generate_batch(["silent"] * 2))
    asked.start()
    wait_until(lambda: len(script.commands) >= 4)
    assert set(script.commands) == {("renew", name) for name in script.attempts}
    assert script.leases == [1000 * LEASE] * len(script.attempts)
    script.released.set()
    asked.join(PATIENCE)
    assert not asked.is_alive()


def test_a_quick_answer_costs_no_renewal(client, script):
    for _ in range(5):
        client.generate("words 2")
    client.close()
    assert script.commands == []


def test_a_stream_that_nobody_holds_is_cancelled(client, script, monkeypatch):
    monkeypatch.setattr("ananke_client.lease.LEASE", 0.3)
    stream = client.generate_stream("hang")
    next(stream)
    del stream
    gc.collect()
    wait_until(lambda: ("cancel", script.attempts[0]) in script.commands)


def test_a_closed_client_cancels_what_nobody_holds(client, script):
    stream = client.generate_stream("hang")
    next(stream)
    del stream
    gc.collect()
    client.close()
    assert script.commands == [("cancel", script.attempts[0])]
