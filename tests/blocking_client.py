"""An asynchronous client behind a synchronous one's methods, so that one suite of tests fits all four."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Self

from ananke_client import AsyncGenerationStream, GenerationResult


class BlockingClient:
    """Runs a client, made by ``make``, on an event loop in a thread of its own."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = self.wait(self._made(make))

    @staticmethod
    async def _made(make: Callable[[], Any]) -> Any:
        return make()

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(500)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if inspect.iscoroutinefunction(method):
            return lambda *args, **kwargs: self.wait(method(*args, **kwargs))
        return method

    def generate_stream(self, *args: Any, **kwargs: Any) -> BlockingStream:
        stream = self._client.generate_stream(*args, **kwargs)
        self.wait(stream.__aenter__())
        return BlockingStream(self, stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop.is_running():
            self.close()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)


class BlockingStream(Iterator[str]):
    def __init__(self, client: BlockingClient, stream: AsyncGenerationStream) -> None:
        self._client = client
        self._stream = stream

    def __next__(self) -> str:
        try:
            # Raised in a task, StopAsyncIteration is itself, and no end of the task.
            return str(self._client.wait(self._next()))
        except StopAsyncIteration:
            raise StopIteration from None

    async def _next(self) -> str:
        return await self._stream.__anext__()

    @property
    def result(self) -> GenerationResult:
        return self._stream.result

    def close(self) -> None:
        self._client.wait(self._stream.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
