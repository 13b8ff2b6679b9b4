"""Clients of a mixed load: each request goes by one of the four, as a stream or whole, and comes back as one answer."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import httpx
from mixed_requests import Request

from ananke_client import (
    AnankeError,
    AnankeInferenceClient,
    AnankeInferenceHTTPClient,
    AsyncAnankeInferenceClient,
    AsyncAnankeInferenceHTTPClient,
    GenerationResult,
    RetryPolicy,
)
from ananke_client.errors import from_wire

ANSWER_SECONDS = 180.0
"""After so long a request has no answer."""
DEADLINE = 0.8
_CLASSES: dict[str, type[Any]] = {
    "grpc": AnankeInferenceClient,
    "grpc-async": AsyncAnankeInferenceClient,
    "http": AnankeInferenceHTTPClient,
    "http-async": AsyncAnankeInferenceHTTPClient,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """How a request ended: ``ok``, an error's code, or what else there is, and whether that is right; ``why`` where it is not."""

    number: int
    kind: str
    name: str
    client: str
    end: str
    right: bool
    why: str
    seconds: float


class Clients:
    """The four clients, and plain HTTP, for use within one event loop; what blocks runs in threads, two for each place."""

    def __init__(self, grpc: str, http: str, concurrency: int) -> None:
        self._http_url = http
        self._pool = ThreadPoolExecutor(2 * concurrency + 4, "mixed-load")
        self._clients = {
            name: made(url=grpc if name.startswith("grpc") else http, timeout=ANSWER_SECONDS - 20, retry=RetryPolicy(attempts=1))
            for name, made in _CLASSES.items()
        }
        self._http = httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients.values():
            await self._call(client.close)
        await self._http.aclose()
        self._pool.shutdown()

    async def answer(self, number: int, request: Request) -> Answer:
        """Send a request and await its end. Never raises."""
        begun = time.monotonic()
        name = "plain HTTP" if request.body is not None else list(self._clients)[number % 4]
        end, why = "none", ""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if request.way == "drop":
                    end = await self._drop(request)
                elif request.body is not None:
                    end, why = await self._post(request.body)
                elif request.way is not None:
                    end = await self._leave(self._clients[name], number, request)
                else:
                    end, why = judged(request, await self._generate(self._clients[name], request, stream=number // 4 % 2 == 0))
        except AnankeError as error:
            end, why = str(error.code), str(error)[:300]
        except Exception as error:  # it is what this load looks for
            why = f"{type(error).__name__}: {error}"[:300]
        right = end in (*request.ends, "overloaded")
        told = "" if right else why
        seconds = round(time.monotonic() - begun, 3)
        return Answer(
            number=number, kind=request.kind, name=request.name, client=name, end=end, right=right, why=told, seconds=seconds
        )

    async def _generate(self, client: Any, request: Request, *, stream: bool) -> GenerationResult:
        arguments = (request.prompt, request.constraint, request.config)
        if not stream:
            result: GenerationResult = await self._call(client.generate, *arguments)
            return result
        pieces = await self._call(client.generate_stream, *arguments)
        deltas = await self._all(pieces)
        if "".join(deltas) != pieces.result.text:
            raise AssertionError("the stream's pieces are not its result's text")
        finished: GenerationResult = pieces.result
        return finished

    async def _leave(self, client: Any, number: int, request: Request) -> str:
        """Begin a long stream and end it early; returns how, or raises what ends it."""
        name = f"mixed-{number}"
        options = {"timeout": DEADLINE} if request.way == "deadline" else {"request_id": name}
        stream = await self._call(client.generate_stream, request.prompt, request.constraint, request.config, **options)
        if request.way == "deadline":
            await self._all(stream)
            return "ok"
        await self._call(stream.__anext__ if hasattr(stream, "__anext__") else stream.__next__)
        if request.way == "close":
            await self._call(stream.close)
            return "closed"
        if not await self._call(client.cancel, name):
            raise AssertionError("the server did not know the request that it was streaming")
        await self._all(stream)
        return "ok"

    async def _drop(self, request: Request) -> str:
        """Break the connection after the first piece of a stream whose lease nobody renews."""
        async with self._http.stream("POST", f"{self._http_url}/v2/models/generate/generate_stream", content=request.body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    found = from_wire(json.loads(line[5:]).get("error", ""))
                    return "dropped" if found is None else str(found.code)
        return "no event"

    async def _post(self, body: bytes) -> tuple[str, str]:
        """A body as it stands: the code of its error, or its status where the error is Triton's own."""
        response = await self._http.post(f"{self._http_url}/v2/models/generate/generate", content=body)
        found = from_wire(response.json().get("error", ""))
        return (f"HTTP {response.status_code}" if found is None else str(found.code)), response.text[:300]

    async def _all(self, stream: Any) -> list[str]:
        if hasattr(stream, "__anext__"):
            return [delta async for delta in stream]
        return await asyncio.get_running_loop().run_in_executor(self._pool, list, stream)

    async def _call(self, method: Any, *arguments: Any, **options: Any) -> Any:
        """The result of a method of either kind of client."""
        if asyncio.iscoroutinefunction(method):
            return await method(*arguments, **options)
        result = await asyncio.get_running_loop().run_in_executor(self._pool, lambda: method(*arguments, **options))
        return await result if asyncio.iscoroutine(result) else result


def judged(request: Request, result: GenerationResult) -> tuple[str, str]:
    """``ok``, or ``wrong output`` and why, of an output and what the server says of it."""
    satisfied, cut = result.constraint_satisfied, result.finish_reason == "length"
    told = f"satisfied: {satisfied}, {result.finish_reason}: {result.text[:150]!r}"
    if request.constraint is None:
        return ("ok", "") if satisfied is None and result.text else ("wrong output", told)
    if cut:
        return ("ok", "") if satisfied is False else ("wrong output", f"cut, and {told}")
    valid = request.judge is not None and request.judge(result.text)
    return ("ok", "") if satisfied and valid else ("wrong output", f"{told}; the judge says {valid}")
