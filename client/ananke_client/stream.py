"""Generation streams: the text of one generation as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self

from ananke_client.generation_call import GenerationCall
from ananke_client.result import GenerationResult
from ananke_client.stand_in import run


class _Stream:
    def __init__(self, call: GenerationCall) -> None:
        self._call = call

    @property
    def result(self) -> GenerationResult:
        """The finished generation.

        Raises:
            RuntimeError: the stream is not exhausted, was closed before its end, or failed.
        """
        if self._call.result is None:
            raise RuntimeError("the stream has no result: it is not exhausted, was closed before its end, or failed")
        return self._call.result


class GenerationStream(_Stream, Iterator[str]):
    """Iterates over a generation's text deltas, none of them empty, and then has its ``result``.

    Close it, or leave its ``with`` block, to cancel the generation. One thread iterates; any thread may close.

    Raises:
        AnankeError: by iteration, as ``generate`` does; the stream is closed then.
        CancelledError: by iteration, once, where the stream or its client was closed before the result had come.
    """

    def __next__(self) -> str:
        if (delta := run(self._call.receive(), self._call.close)) is None:
            raise StopIteration
        return delta

    def close(self) -> None:
        """Cancels the generation if it has not ended, on the server too. Raises: never."""
        run(self._call.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncGenerationStream(_Stream, AsyncIterator[str]):
    """As ``GenerationStream``, for ``async for`` and ``async with``. The request is sent by the first of the two.

    Raises:
        AnankeError: by iteration, or on entering the block; the stream is closed then.
        CancelledError: by either, as ``GenerationStream``.
    """

    async def __anext__(self) -> str:
        if (delta := await self._call.receive()) is None:
            raise StopAsyncIteration
        return delta

    async def close(self) -> None:
        """Cancels the generation if it has not ended, on the server too. Raises: never."""
        await self._call.close()

    async def __aenter__(self) -> Self:
        await self._call.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
