"""A scripted Triton, each of the four clients' ways to it, and interruptions."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from four_clients import FOUR
from triton_support import Script, serving


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture(params=FOUR)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def port(script: Script, kind: str) -> Iterator[int]:
    with serving(script, kind.split("-")[0]) as port:
        yield port


@pytest.fixture
def without_renewals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test stands still for seconds, no renewal gets among its commands."""
    monkeypatch.setattr("ananke_client.lease.LEASE", 600)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Whatever the suite was started by: a shell has what it starts in the background ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
