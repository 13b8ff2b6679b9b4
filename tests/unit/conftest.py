"""A scripted Triton, and each of the four clients' ways to it."""

from __future__ import annotations

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
