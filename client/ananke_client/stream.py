"""Generation stream: the text of one generation as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from ananke_client.response import Outputs, ResponseAssembler
from ananke_client.result import GenerationResult


class Responses(Protocol):
    """The responses of one call in flight; raises AnankeError alone."""

    def __next__(self) -> Outputs: ...

    def cancel(self) -> None:
        """Ends the call, wherever it stands; does nothing the second time. Raises: never."""


class GenerationStream(Iterator[str]):
    """Iterates over a generation's text deltas, none of them empty, and then has its ``result``.

    Close it, or leave its ``with`` block, to cancel the call. One thread iterates.

    Raises:
        AnankeError: by iteration, as ``generate`` does; the stream is closed then.
    """

    def __init__(self, responses: Responses, assembler: ResponseAssembler) -> None:
        self._responses = responses
        self._assembler = assembler
        self._result: GenerationResult | None = None
        self._closed = False

    def __next__(self) -> str:
        if self._closed:
            raise StopIteration
        try:
            while (outputs := next(self._responses, None)) is not None:
                if delta := self._assembler.add(outputs):
                    return delta
            self._result = self._assembler.result()
        except BaseException:
            self.close()
            raise
        self.close()
        raise StopIteration

    @property
    def result(self) -> GenerationResult:
        """The finished generation.

        Raises:
            RuntimeError: the stream is not exhausted, was closed before its end, or failed.
        """
        if self._result is None:
            raise RuntimeError("the stream has no result: it is not exhausted, was closed before its end, or failed")
        return self._result

    def close(self) -> None:
        """Cancels the call if it has not ended. Raises: never."""
        self._closed = True
        self._responses.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
