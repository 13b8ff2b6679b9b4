"""What only the asynchronous clients do: tasks that are cancelled, loops, ``async for``."""

from __future__ import annotations

import asyncio
import time

import pytest
from triton_support import serving
from waiting import SOON, until, wait_until

from ananke_client import AsyncAnankeInferenceClient, AsyncAnankeInferenceHTTPClient, CancelledError, RetryPolicy

CLIENTS = {"grpc": AsyncAnankeInferenceClient, "http": AsyncAnankeInferenceHTTPClient}


@pytest.fixture(params=["grpc", "http"])
def make(request, script):
    with serving(script, request.param) as port:
        yield lambda **settings: CLIENTS[request.param](url=f"127.0.0.1:{port}", **settings)


def test_a_stream_is_iterated_with_and_without_a_block(make, script):
    async def main():
        async with make() as client:
            bare = client.generate_stream("words 4")
            assert [text async for text in bare] == script.words("words 4")
            async with client.generate_stream("words 3") as stream:
                assert [text async for text in stream] == script.words("words 3")
            return bare.result.text, stream.result.text

    assert asyncio.run(main()) == ("".join(script.words("words 4")), "".join(script.words("words 3")))


def test_many_run_in_one_loop(make, script):
    async def main():
        async with make() as client:
            return await asyncio.gather(*(client.generate(f"words 2 {index}") for index in range(32)))

    script.pace = 0.5
    begun = time.monotonic()
    results = asyncio.run(main())
    assert time.monotonic() - begun < 12, "one after the other, they take 16 s"
    assert [result.text for result in results] == ["".join(script.words(f"words 2 {index}")) for index in range(32)]


@pytest.mark.parametrize("prompt", ["silent", "hang"])
def test_cancelling_the_task_ends_the_call_and_leaves_the_client(make, script, prompt):
    async def main():
        async with make() as client:

            async def read():
                return [text async for text in client.generate_stream(prompt)]

            task = asyncio.create_task(read())
            await until(lambda: script.tries[prompt])
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await client.generate(prompt)
            return (await client.generate("words 2")).text

    assert asyncio.run(main()) == "".join(script.words("words 2"))
    assert script.tries[prompt] == 2


def test_cancelling_the_task_ends_the_wait_for_a_retry(make, script):
    async def main():
        async with make(retry=RetryPolicy(first=60, longest=60)) as client:
            task = asyncio.create_task(client.generate("fail overloaded 9"))
            await until(lambda: script.tries["fail overloaded 9"])
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    begun = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - begun < SOON


def test_cancelling_the_task_waits_for_no_server(make, script):
    """The cancel on the server goes beside: here it is answered after 2.5 s."""

    async def main():
        async with make() as client:
            task = asyncio.create_task(client.generate("silent"))
            await until(lambda: script.tries["silent"])
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not script.commands, "it has not been answered yet"

    script.command_pace = 2.5
    asyncio.run(main())
    wait_until(lambda: script.commands == [("cancel", script.attempts[0])])


def test_cancelling_a_batch_cancels_its_items(make, script):
    async def main():
        async with make() as client:
            task = asyncio.create_task(client.generate_batch(["silent"] * 6, concurrency=2))
            await until(lambda: script.tries["silent"] == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert script.tries["silent"] == 2


def test_closing_the_client_ends_the_calls_of_other_tasks(make, script):
    async def main():
        client = make()
        calls = [asyncio.create_task(client.generate("silent")) for _ in range(3)]
        await until(lambda: script.tries["silent"] == 3)
        await client.close()
        return await asyncio.gather(*calls, return_exceptions=True)

    begun = time.monotonic()
    errors = asyncio.run(main())
    assert [type(error) for error in errors] == [CancelledError] * 3
    assert time.monotonic() - begun < SOON


def test_a_stream_whose_client_was_closed_before_it_began_says_so(make):
    async def main():
        client = make()
        iterated, entered = client.generate_stream("words 2"), client.generate_stream("words 2")
        await client.close()
        with pytest.raises(CancelledError, match="the client was closed"):
            _ = [text async for text in iterated]
        with pytest.raises(CancelledError, match="the client was closed"):
            await entered.__aenter__()

    asyncio.run(main())


def test_a_client_may_be_made_before_its_loop(make, script):
    client = make()

    async def main():
        async with client:
            return (await client.generate("words 2")).text

    assert asyncio.run(main()) == "".join(script.words("words 2"))
