"""How long the engine goes on with a generation that was cancelled, by each client and each way to leave one.

    python scripts/cancel_times.py --tries 100 --output benchmarks/cancel-times.json

A try starts a generation that would take minutes, sees its first text, ends it, and watches the server's own figures: its
running requests, those in the engine's batch, and the share of the KV cache in use. Its time runs from the call that ends
it (for a deadline: from when it passes) until all three are 0.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx
from bench_server import WORK, serving, work_of
from bench_support import percentiles, print_table, write_json

from ananke_client import (
    AnankeInferenceClient,
    AnankeInferenceHTTPClient,
    AsyncAnankeInferenceClient,
    AsyncAnankeInferenceHTTPClient,
    CancelledError,
    ConstraintSpec,
    DeadlineExceededError,
    GenerationConfig,
)

LONG: Final = ConstraintSpec.regex("[a-z ]{3000}")
CONFIG: Final = GenerationConfig(max_tokens=3100)
GOAL: Final = 1.0
"""Seconds after which nothing may run any more."""
PATIENCE: Final = 30.0
"""Seconds after which a try is given up, longer than a lease."""
DEADLINE: Final = 0.5
CLIENTS: Final[dict[str, type[Any]]] = {
    "grpc": AnankeInferenceClient,
    "grpc-async": AsyncAnankeInferenceClient,
    "http": AnankeInferenceHTTPClient,
    "http-async": AsyncAnankeInferenceHTTPClient,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=100, help="of each way, by each client")
    parser.add_argument("--clients", nargs="+", default=list(CLIENTS), choices=CLIENTS)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--output", help="a JSON file")
    arguments = parser.parse_args()

    results, rows = [], []
    with serving([], "cancel-times") as server:
        for kind in arguments.clients:
            url = server.grpc_url if kind.startswith("grpc") else f"http://{server.http_url}"
            tries = Tries(CLIENTS[kind], url, f"http://{server.metrics_url}/metrics")
            for way in arguments.ways:
                times = asyncio.run(tries.times(WAYS[way], arguments.tries))
                within = sum(seconds <= GOAL for seconds in times)
                results.append({"client": kind, "way": way, "tries": len(times), "within_1_s": within} | percentiles(times, scale=1000))
                rows.append([f"{kind}, {way}", f"{within} of {len(times)}", *percentiles(times, scale=1000).values()])
                print(*rows[-1], flush=True)
    print_table(["client, way", "within 1 s", "mean ms", "p50", "p99", "max"], rows)
    if arguments.output:
        write_json(arguments.output, {"results": results})


class Tries:
    """Tries with one kind of client; what blocks runs in threads."""

    def __init__(self, client_class: type[Any], url: str, metrics: str) -> None:
        self._class = client_class
        self._url = url
        self._metrics = metrics

    async def times(self, way: Callable[[Tries, Any], Awaitable[float]], count: int) -> list[float]:
        """Seconds of each try of one way to end a generation."""
        times = []
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as self._http:
            for _ in range(count):
                client = await self.call(self._class, url=self._url, timeout=60)
                ended = await way(self, client)
                await self._comes_to(False, ended + PATIENCE)
                times.append(time.monotonic() - ended)
                await self.call(client.close)
        return times

    async def stream(self, client: Any, **options: Any) -> Any:
        """A stream whose first text has come."""
        stream = client.generate_stream("x", LONG, CONFIG, **options)
        await self.call(stream.__anext__ if hasattr(stream, "__anext__") else stream.__next__)
        await self._comes_to(True, time.monotonic() + PATIENCE)
        return stream

    async def call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The result of a method, of either kind of client."""
        if asyncio.iscoroutinefunction(method):
            return await method(*arguments, **options)
        result = await asyncio.to_thread(method, *arguments, **options)
        return await result if asyncio.iscoroutine(result) else result

    async def drain(self, stream: Any) -> None:
        """Read a stream to its end."""
        if hasattr(stream, "__anext__"):
            async for _ in stream:
                pass
        else:
            await asyncio.to_thread(lambda: [None for _ in stream])

    async def _comes_to(self, busy: bool, end: float) -> None:
        """Wait until all figures tell of work, or none does."""
        while True:
            figures = await self._figures()
            if all((figure > 0) == busy for figure in figures):
                return
            if time.monotonic() > end:
                raise RuntimeError(f"the server's figures stay at {dict(zip(WORK, figures, strict=True))}")
            await asyncio.sleep(0.01)

    async def _figures(self) -> list[float]:
        return work_of((await self._http.get(self._metrics)).text)


async def close_stream(tries: Tries, client: Any) -> float:
    stream = await tries.stream(client)
    begun = time.monotonic()
    await tries.call(stream.close)
    return begun


async def close_client(tries: Tries, client: Any) -> float:
    await tries.stream(client)
    begun = time.monotonic()
    await tries.call(client.close)
    return begun


async def pass_deadline(tries: Tries, client: Any) -> float:
    begun = time.monotonic()
    try:
        await tries.drain(client.generate_stream("x", LONG, CONFIG, timeout=DEADLINE))
    except DeadlineExceededError:
        return begun + DEADLINE
    raise RuntimeError("no deadline passed")


async def cancel_request(tries: Tries, client: Any) -> float:
    stream = await tries.stream(client, request_id="to-be-cancelled")
    begun = time.monotonic()
    if not await tries.call(client.cancel, "to-be-cancelled"):
        raise RuntimeError("the server did not know the request")
    try:
        await tries.drain(stream)
    except CancelledError:
        return begun
    raise RuntimeError("the stream was not cancelled")


WAYS: Final[dict[str, Callable[[Tries, Any], Awaitable[float]]]] = {
    "stream closed": close_stream,
    "client closed": close_client,
    "deadline passed": pass_deadline,
    "cancelled": cancel_request,
}


if __name__ == "__main__":
    main()
