"""Transport: what carries calls, for the code that the four clients share.

All of it is ``async def``. The asynchronous clients await it. A synchronous client's transport blocks where another would suspend,
so its coroutines run from start to end in one step, which ``stand_in.run`` takes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ananke_client.commands import Verb
from ananke_client.model_info import ModelMetadata, ModelStatistics
from ananke_client.report import ConstraintReport
from ananke_client.request import GenerationRequest
from ananke_client.response import Outputs

GRACE = 2.0
"""Seconds that a client waits beyond a generation's timeout, so that the server's own error comes through."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """One question with one answer: what goes where, and how the reply reads."""

    target: str
    """gRPC: a method of Triton's service; HTTP: a path."""
    content: Any
    """gRPC: the message; HTTP: the body, as JSON, or None for a GET."""
    read: Callable[[Any], T]
    """gRPC: of the reply's message; HTTP: of the reply's text. Raises ``InternalError`` for a reply that says something else."""


class Codec(Protocol):
    """Triton's questions as a transport writes them."""

    def validation(self, model: str, constraint: str, parameters: Mapping[str, int | str]) -> Question[ConstraintReport]: ...

    def server_live(self) -> Question[bool]: ...

    def server_ready(self) -> Question[bool]: ...

    def server_version(self) -> Question[str]: ...

    def model_ready(self, model: str) -> Question[bool]: ...

    def model_metadata(self, model: str) -> Question[ModelMetadata]: ...

    def model_statistics(self, model: str) -> Question[list[ModelStatistics]]: ...


class Pause(ABC):
    """A wait that somebody else may end."""

    @abstractmethod
    async def wait(self, seconds: float) -> None:
        """Waits, until ``end`` at most."""

    @abstractmethod
    def end(self) -> None:
        """Ends the wait under way, and every one that is begun later."""


class Responses(ABC):
    """The responses of one call in flight. Raises: AnankeError alone."""

    @abstractmethod
    async def receive(self) -> Outputs | None:
        """The next response, None at the end."""

    @abstractmethod
    async def close(self) -> None:
        """Ends the call, wherever it stands; does nothing the second time. Raises: never."""


class Transport(ABC):
    """What carries calls. Raises: AnankeError alone."""

    codec: Codec

    @abstractmethod
    async def open(self, request: GenerationRequest, model: str) -> Responses:
        """Starts one generation, which ends ``GRACE`` seconds after the request's timeout at the latest."""

    @abstractmethod
    async def ask(self, question: Question[T], timeout: float) -> T:
        """The answer to a question, within ``timeout`` seconds."""

    @abstractmethod
    async def command(self, model: str, verb: Verb, value: str | bool, timeout: float) -> Outputs:
        """The answer to a command about generations under way or the engine, within ``timeout`` seconds."""

    @abstractmethod
    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Starts work beside the calls, which does not keep the process alive."""

    @abstractmethod
    def pause(self) -> Pause:
        """A wait between tries, or between rounds of work beside the calls."""

    @abstractmethod
    def abandon(self, attempt_id: str) -> None:
        """Ends ``open`` for this try, where another thread waits in it. Raises: never."""

    @abstractmethod
    async def close(self, patience: float) -> None:
        """Closes the connections, as soon as the work beside the calls has ended, or after ``patience`` seconds."""
