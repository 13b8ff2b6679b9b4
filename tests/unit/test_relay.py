"""The relay between generate_once and guided_vllm over a real socket: every call gets its answer, whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import backend_support as triton
import pytest
from waiting import PATIENCE

from ananke_client.errors import DeadEndError, EngineUnavailableError, InternalError
from ananke_client.report import ConstraintReport
from ananke_server.engine.request import Delta, GenerateRequest, GenerateResult
from ananke_server.triton.relay_client import RelayClient
from ananke_server.triton.relay_server import RelayedResponses, RelayServer

assert triton  # before ananke_server.triton

REQUEST = GenerateRequest("id", "prompt", constraint="{}", timeout=1.5)
REPORT = ConstraintReport(accepted=True, kind="regex", guarantee="exact", constraint_satisfied=True)
RESULT = GenerateResult("stop", 3, -0.5, REPORT, b"{}", {"mask": {"steps": 1}})


async def answer(request: GenerateRequest, responses: RelayedResponses) -> None:
    """Does what the prompt says: an error, or after a while the prompt itself, which is two pieces."""
    if request.prompt == "fail":
        responses.fail(DeadEndError("nothing can follow"))
    elif request.prompt == "fault":
        responses.fail(ZeroDivisionError("by zero"))
    elif request.prompt == "unsendable":
        responses.finish(replace(RESULT, metrics={"x": object()}))
    else:
        await asyncio.sleep(0.05)
        responses.add(Delta(request.prompt[:1], 1, [{"a": {"logprob": -1.0}}]))
        responses.add(Delta(request.prompt[1:], 1, [{"b": {"logprob": -2.0}}]))
        responses.finish(RESULT)


def run(path: Path, test: Callable[[RelayClient, RelayServer], Awaitable[None]], answer: object = answer) -> None:
    async def main() -> None:
        server, client = RelayServer(path, answer), RelayClient(path)  # type: ignore[arg-type]
        await server.start()
        try:
            await asyncio.wait_for(test(client, server), PATIENCE)
        finally:
            await client.close()
            await server.close()

    asyncio.run(main())


def test_what_is_sent_comes_back_whole(tmp_path: Path) -> None:
    seen = []

    async def record(request: GenerateRequest, responses: RelayedResponses) -> None:
        seen.append(request)
        await answer(request, responses)

    async def test(client: RelayClient, server: RelayServer) -> None:
        text, result = await client.generate(REQUEST)
        assert text == Delta("prompt", 2, [{"a": {"logprob": -1.0}}, {"b": {"logprob": -2.0}}])
        assert result == RESULT

    run(tmp_path / "relay", test, record)
    assert seen == [REQUEST]
    assert not (tmp_path / "relay").exists()


def test_many_at_once_each_get_their_own(tmp_path: Path) -> None:
    async def test(client: RelayClient, server: RelayServer) -> None:
        assert (tmp_path / "relay").stat().st_mode & 0o077 == 0
        prompts = [f"prompt {number}" for number in range(500)]
        begin = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(client.generate(replace(REQUEST, prompt=prompt)) for prompt in prompts))
        assert [text.text for text, _ in answers] == prompts
        assert asyncio.get_running_loop().time() - begin < 500 * 0.05 / 2, "one after the other"

    run(tmp_path / "relay", test)


def test_errors_keep_their_code(tmp_path: Path) -> None:
    async def test(client: RelayClient, server: RelayServer) -> None:
        with pytest.raises(DeadEndError, match=r"^\[dead_end\] nothing can follow$"):
            await client.generate(replace(REQUEST, prompt="fail"))
        with pytest.raises(InternalError, match="ZeroDivisionError: by zero"):
            await client.generate(replace(REQUEST, prompt="fault"))
        with pytest.raises(InternalError, match="of type object does not travel"):
            await client.generate(replace(REQUEST, prompt="unsendable"))
        assert (await client.generate(REQUEST))[1] == RESULT

    run(tmp_path / "relay", test)


def test_an_abandoned_call_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    begun: dict[str, RelayedResponses] = {}

    async def wait(request: GenerateRequest, responses: RelayedResponses) -> None:
        begun[request.prompt] = responses
        while not responses.is_cancelled():
            await asyncio.sleep(0.01)
        responses.finish(RESULT)

    async def test(client: RelayClient, server: RelayServer) -> None:
        calls = {name: asyncio.create_task(client.generate(replace(REQUEST, prompt=name))) for name in ("left", "lost")}
        while len(begun) < 2:
            await asyncio.sleep(0.01)
        calls["left"].cancel()
        while not begun["left"].is_cancelled():
            await asyncio.sleep(0.01)
        assert not begun["lost"].is_cancelled()
        await client.close()
        with pytest.raises(EngineUnavailableError, match="has ended"):
            await calls["lost"]
        while not begun["lost"].is_cancelled():
            await asyncio.sleep(0.01)

    run(tmp_path / "relay", test, wait)


def test_a_lost_engine_is_told_and_a_new_one_found(tmp_path: Path) -> None:
    async def test(client: RelayClient, server: RelayServer) -> None:
        await client.generate(REQUEST)
        await client.close()
        await server.close()
        with pytest.raises(EngineUnavailableError, match="cannot be reached"):
            await client.generate(REQUEST)
        await server.start()
        assert (await client.generate(REQUEST))[1] == RESULT

    run(tmp_path / "relay", test)
