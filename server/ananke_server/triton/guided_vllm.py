"""The ``guided_vllm`` model: requests of Triton onto the engine's event loop, and their answers back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import triton_python_backend_utils as pb_utils

from ananke_client.errors import CancelledError
from ananke_server.engine.request import Delta, GenerateRequest, joined
from ananke_server.handover import Seal
from ananke_server.settings import load_settings
from ananke_server.triton.codec import decode_request, encode_delta, encode_result, triton_error

if TYPE_CHECKING:
    from ananke_server.engine.engine import GuidedEngine

logger = logging.getLogger(__name__)

CANCELLATION_POLL = 0.1
# Less than the 20 s that the launcher has Triton wait at its exit.
DRAIN_SECONDS = 15.0


class TritonPythonModel:
    """Decoupled: ``execute`` returns at once, and every request gets its responses from the event loop's tasks."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the engine; the model is ready when this returns."""
        # vLLM takes long to import, and Triton imports a model's module twice.
        from ananke_server.engine.engine import GuidedEngine

        self._responses = _ResponsePipe()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="ananke-engine", daemon=True).start()
        self._engine: GuidedEngine = self._on_loop(GuidedEngine.start(load_settings(), Seal.shared()))

    def execute(self, requests: list[Any]) -> None:
        """Hand the requests over; a faulty one is answered here."""
        for triton_request in requests:
            sender = triton_request.get_response_sender()
            try:
                request = decode_request(triton_request)
            except Exception as error:  # every request gets its answer
                self._responses.fail(sender, error)
                continue
            asyncio.run_coroutine_threadsafe(self._answer(request, sender), self._loop)

    def finalize(self) -> None:
        """Stop the engine, once the requests under way have been answered or ``DRAIN_SECONDS`` are over."""
        self._on_loop(self._drain())
        self._loop.call_soon_threadsafe(self._engine.shutdown)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._responses.close()
        Seal.forget()

    async def _answer(self, request: GenerateRequest, sender: Any) -> None:
        text = _Pieces(request, lambda delta: self._responses.send(sender, lambda: encode_delta(delta, request.wants)))
        generation = asyncio.current_task()
        assert generation is not None
        watch = asyncio.create_task(_watch_for_cancellation(sender, generation))
        try:
            result = await self._engine.generate(request, text.add)
        except asyncio.CancelledError:
            self._responses.fail(sender, CancelledError("the caller cancelled the request"))
        except Exception as error:  # every request gets its answer
            if not hasattr(error, "code"):
                logger.exception("request %s failed", request.request_id)
            self._responses.fail(sender, error)
        else:
            last = text.rest()
            self._responses.send(sender, lambda: encode_result(last, result, request.wants), final=True)
        finally:
            watch.cancel()

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._engine.pending:
                    await asyncio.sleep(0.05)

    def _on_loop(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


async def _watch_for_cancellation(sender: Any, generation: asyncio.Task[None]) -> None:
    while not sender.is_cancelled():
        await asyncio.sleep(CANCELLATION_POLL)
    generation.cancel()


@dataclass(slots=True)
class _Pieces:
    """A request's text: passed on as it comes when streaming, else kept for the one response.

    Tokens without text of their own (half a character, the end of the sequence) wait for the next response.
    """

    request: GenerateRequest
    pass_on: Callable[[Delta], None]
    kept: list[Delta] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        self.kept.append(delta)
        if self.request.stream and delta.text:
            self.pass_on(self.rest())

    def rest(self) -> Delta:
        """What has not been passed on, as one."""
        kept, self.kept = self.kept, []
        return joined(kept)


class _ResponsePipe:
    """Sends responses to Triton from one thread of its own, in order, so that the event loop never waits for it."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Any, Callable[[], Any], bool] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ananke-responses", daemon=True)
        self._thread.start()

    def send(self, sender: Any, make: Callable[[], Any], *, final: bool = False) -> None:
        """Queue a response; ``make`` builds it on the sending thread."""
        self._queue.put((sender, make, final))

    def fail(self, sender: Any, error: Exception) -> None:
        """Queue an error as a request's last response."""
        self.send(sender, lambda: pb_utils.InferenceResponse(error=triton_error(error)), final=True)

    def close(self) -> None:
        """Send what is queued, and end."""
        self._queue.put(None)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            sender, make, final = item
            flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
            try:
                sender.send(_made(make), flags=flags)
            except Exception:
                logger.exception("a response could not be sent")


def _made(make: Callable[[], Any]) -> Any:
    """The response, or, where it cannot be built, the error that says so in its place."""
    try:
        return make()
    except Exception as error:
        logger.exception("a response could not be built")
        return pb_utils.InferenceResponse(error=triton_error(error))
