"""The four clients when they, their streams or their batches are ended early: nothing passes for whole, nothing waits, nothing runs on."""

from __future__ import annotations

import pytest
from four_clients import FOUR, make_client
from triton_support import Script, serving

from ananke_client import CancelledError


@pytest.fixture
def script():
    return Script()


@pytest.fixture(params=FOUR)
def kind(request):
    return request.param


@pytest.fixture
def port(script, kind):
    with serving(script, kind.split("-")[0]) as port:
        yield port


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
