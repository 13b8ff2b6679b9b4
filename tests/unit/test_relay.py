"""The relay between guided_vllm and the models that call it over a real socket: every call gets its answer, whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import backend_support as triton
import pytest
from waiting import PATIENCE, until

from ananke_client.errors import CancelledError, DeadEndError, EngineUnavailableError, InternalError
from ananke_client.report import ConstraintReport
from ananke_server.engine.request import Delta, Emit, GenerateRequest, GenerateResult
from ananke_server.triton.relay_client import LostEngineError, RelayClient
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


async def generate(client: RelayClient, request: GenerateRequest, emit: Emit) -> GenerateResult:
    return await (await client.call(request, emit)).end()


async def whole(client: RelayClient, prompt: str = REQUEST.prompt) -> tuple[Delta, GenerateResult]:
    """All that a call that does not stream brings."""
    deltas: list[Delta] = []
    result = await generate(client, replace(REQUEST, prompt=prompt), deltas.append)
    [text] = deltas
    return text, result


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
        text, result = await whole(client)
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
        answers = await asyncio.gather(*(whole(client, prompt) for prompt in prompts))
        assert [text.text for text, _ in answers] == prompts
        assert asyncio.get_running_loop().time() - begin < 500 * 0.05 / 2, "one after the other"

    run(tmp_path / "relay", test)


def test_errors_keep_their_code(tmp_path: Path) -> None:
    async def test(client: RelayClient, server: RelayServer) -> None:
        with pytest.raises(DeadEndError, match=r"^\[dead_end\] nothing can follow$"):
            await whole(client, "fail")
        with pytest.raises(InternalError, match="ZeroDivisionError: by zero"):
            await whole(client, "fault")
        with pytest.raises(InternalError, match="of type object does not travel"):
            await whole(client, "unsendable")
        assert (await whole(client))[1] == RESULT

    run(tmp_path / "relay", test)


def test_a_stream_gets_its_pieces_in_order_and_the_rest_with_the_result(tmp_path: Path) -> None:
    pieces: list[tuple[str, int]] = []

    async def speak(request: GenerateRequest, responses: RelayedResponses) -> None:
        for number in range(100):
            responses.add(Delta("", 1))
            responses.add(Delta(str(number), 1))
            if number % 10 == 0:
                await asyncio.sleep(0)
        responses.add(Delta("", 1))
        assert responses.tokens == 201
        responses.finish(RESULT)

    async def test(client: RelayClient, server: RelayServer) -> None:
        stream = replace(REQUEST, stream=True)
        assert await generate(client, stream, lambda delta: pieces.append((delta.text, delta.tokens))) == RESULT
        assert pieces == [*((str(number), 2) for number in range(100)), ("", 1)]

    run(tmp_path / "relay", test, speak)


def test_pieces_come_before_the_end(tmp_path: Path) -> None:
    async def test(client: RelayClient, server: RelayServer) -> None:
        heard = asyncio.Event()
        released.append(heard)
        await generate(client, replace(REQUEST, stream=True), lambda delta: heard.set())

    async def speak(request: GenerateRequest, responses: RelayedResponses) -> None:
        responses.add(Delta("a", 1))
        await released[0].wait()
        responses.finish(RESULT)

    released: list[asyncio.Event] = []
    run(tmp_path / "relay", test, speak)


def test_messages_larger_than_what_is_read_at_once(tmp_path: Path) -> None:
    async def test(client: RelayClient, server: RelayServer) -> None:
        prompts = [letter * size for letter, size in (("a", 3_000_000), ("b", 2), ("c", 1 << 18), ("d", 900_001))]
        answers = await asyncio.gather(*(whole(client, prompt) for prompt in prompts))
        assert [text.text for text, _ in answers] == prompts

    run(tmp_path / "relay", test)


def test_an_abandoned_call_is_cancelled_at_once_and_the_others_go_on(tmp_path: Path) -> None:
    gone: dict[str, asyncio.Event] = {}

    async def wait(request: GenerateRequest, responses: RelayedResponses) -> None:
        left = gone[request.prompt] = asyncio.Event()
        with responses.over(left.set):
            await left.wait()
        responses.finish(RESULT)

    async def test(client: RelayClient, server: RelayServer) -> None:
        calls = {name: asyncio.create_task(whole(client, name)) for name in ("left", "lost")}
        while len(gone) < 2:
            await asyncio.sleep(0.01)
        calls["left"].cancel()
        await gone["left"].wait()
        await asyncio.sleep(0.05)
        assert not gone["lost"].is_set()
        await client.close()
        with pytest.raises(CancelledError, match="the server is shutting down"):
            await calls["lost"]
        await gone["lost"].wait()

    run(tmp_path / "relay", test, wait)


def test_a_call_abandoned_before_it_is_watched_is_cancelled(tmp_path: Path) -> None:
    begun, watched = asyncio.Event(), asyncio.Event()

    async def late(request: GenerateRequest, responses: RelayedResponses) -> None:
        begun.set()
        await until(lambda: responses._abandoned)
        with responses.over(watched.set):
            await watched.wait()

    async def test(client: RelayClient, server: RelayServer) -> None:
        call = asyncio.create_task(whole(client))
        await begun.wait()
        call.cancel()
        await watched.wait()

    run(tmp_path / "relay", test, late)


def test_what_cannot_be_read_ends_its_own_call_alone(tmp_path: Path) -> None:
    """Keys of JSON objects are texts; a number among them can be written, and not read."""

    async def speak(request: GenerateRequest, responses: RelayedResponses) -> None:
        await asyncio.sleep(0.05)
        responses.add(Delta(request.prompt, 1))
        responses.finish(replace(RESULT, metrics={1: "x"}) if request.prompt == "odd" else RESULT)

    async def test(client: RelayClient, server: RelayServer) -> None:
        calls = [asyncio.create_task(whole(client, prompt)) for prompt in ("one", "odd", "other")]
        one, odd, other = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(odd, InternalError)
        assert "cannot be read" in str(odd)
        assert [one, other] == [(Delta("one", 1), RESULT), (Delta("other", 1), RESULT)]
        with pytest.raises(InternalError, match="the call cannot be read"):
            await generate(client, replace(REQUEST, timeout="soon"), lambda _: None)  # type: ignore[arg-type]

    run(tmp_path / "relay", test, speak)


def test_a_step_of_all_streams_leaves_as_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[RelayedResponses] = []
    over = asyncio.Event()

    async def wait(request: GenerateRequest, responses: RelayedResponses) -> None:
        streams.append(responses)
        await over.wait()
        responses.finish(RESULT)

    async def test(client: RelayClient, server: RelayServer) -> None:
        pieces: list[Delta] = []
        calls = [asyncio.create_task(generate(client, replace(REQUEST, stream=True), pieces.append)) for _ in range(20)]
        while len(streams) < 20:
            await asyncio.sleep(0.01)
        [connection] = server._connections
        writes: list[bytes] = []
        write = connection.write
        monkeypatch.setattr(connection, "write", lambda data: (writes.append(data), write(data)))
        for responses in streams:
            responses.add(Delta("a", 1))
        while len(pieces) < 20:
            await asyncio.sleep(0.01)
        assert len(writes) == 1
        over.set()
        await asyncio.gather(*calls)

    run(tmp_path / "relay", test, wait)


def test_what_comes_to_one_that_refuses_is_told_and_what_is_under_way_goes_on(tmp_path: Path) -> None:
    begun, released = asyncio.Event(), asyncio.Event()

    async def wait(request: GenerateRequest, responses: RelayedResponses) -> None:
        begun.set()
        await released.wait()
        await answer(request, responses)

    async def test(client: RelayClient, server: RelayServer) -> None:
        under_way = asyncio.create_task(whole(client))
        await begun.wait()
        server.refuse()
        with pytest.raises(EngineUnavailableError, match="shutting down"):
            await whole(client)
        released.set()
        assert (await under_way)[1] == RESULT

    run(tmp_path / "relay", test, wait)


def test_a_lost_engine_is_told_and_a_new_one_found(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def wait(request: GenerateRequest, responses: RelayedResponses) -> None:
        if request.prompt == "endless":
            begun.set()
            await asyncio.Event().wait()
        await answer(request, responses)

    async def test(client: RelayClient, server: RelayServer) -> None:
        await whole(client)
        under_way = asyncio.create_task(whole(client, "endless"))
        await begun.wait()
        await server.close()
        with pytest.raises(LostEngineError, match="has ended"):
            await under_way
        with pytest.raises(EngineUnavailableError, match="cannot be reached"):
            await whole(client)
        await server.start()
        assert (await whole(client))[1] == RESULT

    run(tmp_path / "relay", test, wait)
