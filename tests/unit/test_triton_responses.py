"""The response pipe on fake senders: whatever the interleaving, all text in order and one final response a request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import backend_support as triton
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import PATIENCE, eventually

from ananke_client.errors import DeadlineExceededError
from ananke_client.report import ConstraintReport
from ananke_server.engine.request import Delta, GenerateResult
from ananke_server.triton.cancellation import CancellationWatch
from ananke_server.triton.responses import THREADS, ResponsePipe, Responses

OUTPUTS = frozenset(("text_output", "num_output_tokens", "logprobs", "constraint_report"))
RESULT = GenerateResult("stop", 3, None, ConstraintReport(accepted=True), {}, {})


class Gate:
    """Holds up the pipe at a sender's first response, until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, number: int) -> None:
        if number == 0:
            self.reached.set()
            assert self.opened.wait(PATIENCE)


def delta(text: str) -> Delta:
    return Delta(text, 1, [{text: {"logprob": -1.0}}])


def held_pipe() -> tuple[ResponsePipe, Callable[[], None]]:
    """A pipe whose threads are behind until the function is called."""
    pipe, gates = ResponsePipe(), [Gate() for _ in range(THREADS)]
    for gate in gates:
        pipe.open(triton.Sender(gate)).fail(DeadlineExceededError("first"))
        assert gate.reached.wait(PATIENCE)

    def release() -> None:
        for gate in gates:
            gate.opened.set()

    return pipe, release


def test_each_piece_leaves_at_once_while_the_pipe_keeps_up() -> None:
    pipe, sender = ResponsePipe(), triton.Sender()
    responses = pipe.open(sender, OUTPUTS, stream=True)
    for number in range(20):
        responses.add(delta(f"{number} "))
        assert eventually(lambda number=number: len(sender.taken) == number + 1)
    responses.finish(RESULT)
    assert sender.final.wait(PATIENCE)
    pipe.close()
    assert (len(sender.taken), sender.tokens, pipe.coalesced) == (21, 20, 0)
    assert sender.taken[-1]["constraint_report"] is not None


def test_what_waits_is_sent_as_one_with_tokens_and_logprobs_joined() -> None:
    pipe, release = held_pipe()
    sender = triton.Sender()
    responses = pipe.open(sender, OUTPUTS, stream=True)
    for number in range(50):
        responses.add(delta(f"{number} "))
    release()
    assert eventually(lambda: len(sender.taken) == 1)
    responses.finish(RESULT)
    pipe.close()
    assert (sender.text, sender.tokens) == ("".join(f"{number} " for number in range(50)), 50)
    assert [next(iter(position)) for position in json.loads(sender.taken[0]["logprobs"])] == [f"{number} " for number in range(50)]
    assert (pipe.sent, pipe.coalesced) == (THREADS + 2, 49)


def test_requests_take_turns_and_a_flood_makes_no_more_than_one_response_each() -> None:
    pipe, release = held_pipe()
    order: list[int] = []
    senders = [triton.Sender(lambda _, number=number: order.append(number)) for number in range(20)]
    streams = [pipe.open(sender, OUTPUTS, stream=True) for sender in senders]
    for _ in range(1000):
        for stream in streams:
            stream.add(delta("x"))
    release()
    assert eventually(lambda: len(order) == 20)
    assert sorted(order) == list(range(20))
    for stream in streams:
        stream.finish(RESULT)
    pipe.close()
    assert [sender.text for sender in senders] == ["x" * 1000] * 20
    assert pipe.sent == 40 + THREADS


def test_a_slow_sender_holds_nobody_up_and_gets_the_rest_in_one_piece() -> None:
    pipe, gate = ResponsePipe(), Gate()
    slow, quick = triton.Sender(gate), triton.Sender()
    behind, other = pipe.open(slow, OUTPUTS, stream=True), pipe.open(quick, OUTPUTS, stream=True)
    behind.add(delta("a"))
    assert gate.reached.wait(PATIENCE)
    other.add(delta("1"))
    for text in "bcd":
        behind.add(delta(text))
    behind.finish(RESULT)
    other.finish(RESULT)
    assert quick.final.wait(PATIENCE)
    assert quick.text == "1"
    gate.opened.set()
    pipe.close()
    assert [response["text_output"] for response in slow.taken] == [b"a", b"bcd"]


def test_without_streaming_there_is_one_response() -> None:
    pipe, sender = ResponsePipe(), triton.Sender()
    responses = pipe.open(sender, OUTPUTS)
    for text in ("a", "b", "c"):
        responses.add(delta(text))
    responses.finish(RESULT)
    pipe.close()
    assert [(response["text_output"], response["num_output_tokens"]) for response in sender.taken] == [(b"abc", 3)]


def test_tokens_without_text_wait_for_the_next_response() -> None:
    pipe, sender = ResponsePipe(), triton.Sender()
    responses = pipe.open(sender, OUTPUTS, stream=True)
    for text in ("", "é", ""):
        responses.add(delta(text))
    responses.finish(RESULT)
    pipe.close()
    assert (sender.text, sender.tokens) == ("é", 3)
    assert len(sender.taken) <= 2


def test_an_error_comes_last_after_the_text_that_waited() -> None:
    pipe, release = held_pipe()
    sender = triton.Sender()
    responses = pipe.open(sender, OUTPUTS, stream=True)
    responses.add(delta("so "))
    responses.add(delta("far"))
    responses.fail(DeadlineExceededError("over"))
    release()
    pipe.close()
    assert [response["text_output"] for response in sender.taken] == [b"so far", None]
    assert "deadline_exceeded" in str(sender.taken[-1].error)


def test_a_response_that_cannot_be_built_ends_the_request_with_an_error_and_its_generation() -> None:
    pipe, sender = ResponsePipe(), triton.Sender()
    responses = pipe.open(sender, OUTPUTS, stream=True)
    responses.add(Delta("x", 1, [{"unserialisable": {object(): 1}}]))
    assert sender.final.wait(PATIENCE)
    assert eventually(responses.is_cancelled)
    responses.add(delta("y"))
    responses.finish(RESULT)
    pipe.close()
    assert len(sender.taken) == 1
    assert "internal" in str(sender.taken[0].error)


def test_a_result_that_cannot_be_built_becomes_an_error() -> None:
    pipe, sender = ResponsePipe(), triton.Sender()
    faulty = GenerateResult("stop", 3, None, ConstraintReport(accepted=True), {}, {"unserialisable": object()})
    pipe.open(sender, frozenset(("metrics",))).finish(faulty)
    pipe.close()
    assert "internal" in str(sender.taken[0].error)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_sender_that_fails_harms_no_other_request(failing: int) -> None:
    failures = [failing]

    def fail(number: int) -> None:
        if number in failures:
            failures.clear()
            raise RuntimeError("shared memory is full")

    pipe, broken, sound = ResponsePipe(), triton.Sender(fail), triton.Sender()
    streams = [pipe.open(sender, OUTPUTS, stream=True) for sender in (broken, sound)]
    for text in ("a", "b"):
        for stream in streams:
            stream.add(delta(text))
            assert eventually(lambda stream=stream: idle(stream))
    for stream in streams:
        stream.finish(RESULT)
    pipe.close()
    assert broken.final.is_set()
    assert [response.error is not None for response in broken.taken] == [[True], [False, True], [False, False]][failing]
    assert (sound.text, sound.taken[-1]["constraint_report"] is not None) == ("ab", True)


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.lists(st.text(max_size=3), max_size=12), st.booleans(), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    pauses=st.lists(st.sampled_from([0.0, 0.0, 1e-4, 1e-3]), min_size=1, max_size=20),
    order=st.randoms(use_true_random=False),
)
def test_whatever_the_interleaving_nothing_is_lost_or_reordered(requests, pauses, order) -> None:  # type: ignore[no-untyped-def]
    pipe = ResponsePipe()
    senders = [triton.Sender(lambda number: time.sleep(pauses[number % len(pauses)])) for _ in requests]
    opened = [pipe.open(sender, OUTPUTS, stream=stream) for sender, (_, stream, _) in zip(senders, requests, strict=True)]
    steps = [number for number, (texts, _, _) in enumerate(requests) for _ in range(len(texts) + 1)]
    order.shuffle(steps)
    left = [list(texts) for texts, _, _ in requests]
    asking = threading.Event()
    asker = threading.Thread(target=_ask, args=(opened, asking))
    asker.start()
    for step, number in enumerate(steps):
        time.sleep(pauses[-1 - step % len(pauses)] / 4)
        _step(opened[number], left[number], fails=requests[number][2])
    pipe.close()
    asking.set()
    asker.join()
    for sender, (texts, stream, fails) in zip(senders, requests, strict=True):
        assert sender.final.is_set()
        assert [response.error is not None for response in sender.taken].count(True) == fails
        assert (sender.taken[-1].error is not None) == fails
        assert not sender.asked_when_freed
        if not fails:
            assert (sender.text, sender.tokens) == ("".join(texts), len(texts))
        elif stream:
            assert sender.text == "".join(texts)
        assert stream or len(sender.taken) == 1
        assert len(sender.taken) <= 1 + sum(map(bool, texts))


def _ask(opened: list[Responses], ending: threading.Event) -> None:
    while not ending.is_set():
        assert not any(responses.is_cancelled() for responses in opened)


def _step(responses: Responses, left: list[str], *, fails: bool) -> None:
    if left:
        text = left.pop(0)
        responses.add(Delta(text, 1))
    elif fails:
        responses.fail(DeadlineExceededError("over"))
    else:
        responses.finish(RESULT)


class TestCancellationWatch:
    def test_one_thread_asks_for_all_and_only_those_cancelled_are_told(self) -> None:
        pipe, senders, told = ResponsePipe(), [triton.Sender() for _ in range(30)], []
        with CancellationWatch() as watch:
            threads = threading.active_count()
            with ExitStack() as watched:
                for number, sender in enumerate(senders):
                    watched.enter_context(watch.over(pipe.open(sender), lambda number=number: told.append(number)))
                assert threading.active_count() == threads
                assert eventually(lambda: all(sender.asked for sender in senders))
                assert told == []
                senders[7].cancelled = True
                assert eventually(lambda: told == [7])
        assert told == [7]
        pipe.close()

    def test_nobody_is_asked_once_all_have_ended(self) -> None:
        pipe, sender = ResponsePipe(), triton.Sender()
        with CancellationWatch() as watch:
            with watch.over(pipe.open(sender), lambda: None):
                assert eventually(lambda: sender.asked >= 2)
            asked = sender.asked
            time.sleep(0.35)
            assert sender.asked <= asked + 1
        pipe.close()

    def test_a_request_that_cannot_be_asked_for_does_not_end_the_watch(self) -> None:
        class Broken:
            def is_cancelled(self) -> bool:
                raise RuntimeError("no answer")

        told: list[str] = []
        pipe, sender = ResponsePipe(), triton.Sender(cancelled=True)
        with CancellationWatch() as watch, ExitStack() as watched:
            watched.enter_context(watch.over(Broken(), lambda: told.append("broken")))
            watched.enter_context(watch.over(pipe.open(sender), lambda: told.append("cancelled")))
            assert eventually(lambda: told == ["cancelled"])
        pipe.close()


def idle(responses: Responses) -> bool:
    return not responses._queued or responses._closed
