"""What an engine that has started is told, with stand-ins for vLLM and the mask processes."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from ananke_server.cores import KEPT_VARIABLE
from ananke_server.engine import start
from ananke_server.masking.worker import WorkerExtension
from ananke_server.settings import Settings


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of its workers that are called when an engine starts."""
    called: list[str] = []

    async def collective_rpc(method: str) -> None:
        called.append(method)

    async def made(*_: object) -> Any:
        return SimpleNamespace(collective_rpc=collective_rpc, shutdown=lambda: None)

    async def up() -> None:
        pass

    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=4), model_config=SimpleNamespace(enable_sleep_mode=False), max_concurrent_batches=1
    )
    crew = SimpleNamespace(address="", wait_until_up=up, close=lambda: None)
    monkeypatch.setenv("ANANKE_BOARD", "")
    monkeypatch.setattr(start, "_prepare_environment", lambda _: "v1")
    monkeypatch.setattr(start, "_configured", lambda *_: (config, None, None))
    monkeypatch.setattr(start, "_vllm", made)
    monkeypatch.setattr(start.MaskCrew, "start", lambda *_, **__: crew)
    return called


def test_its_workers_use_the_cores_that_are_kept_for_them(called: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEPT_VARIABLE, "0")
    asyncio.run(start.start_engine(Settings(model="m")))
    assert [getattr(WorkerExtension, name) for name in called] == [WorkerExtension.ananke_use_kept_cores]


@pytest.mark.parametrize(("asked", "told"), [(None, False), (0, False), (2, True)])
def test_cores_that_are_asked_for_and_not_kept_are_told_of(
    called: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, asked: int | None, told: bool
) -> None:
    monkeypatch.setenv(KEPT_VARIABLE, "")
    with caplog.at_level(logging.WARNING):
        asyncio.run(start.start_engine(Settings(model="m", engine_cores=asked)))
    assert called == []
    assert ("engine_cores is 2, but Triton was started without it" in caplog.text) == told
