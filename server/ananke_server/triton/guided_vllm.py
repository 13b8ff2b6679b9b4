"""The ``guided_vllm`` model: requests of Triton onto the engine's event loop, and their answers back."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import triton_python_backend_utils as pb_utils

from ananke_client.errors import CancelledError
from ananke_server.engine.request import Delta, GenerateRequest
from ananke_server.handover import Seal
from ananke_server.settings import load_settings
from ananke_server.triton.codec import decode_request, encode_delta, encode_result, triton_error

if TYPE_CHECKING:
    from ananke_server.engine.engine import GuidedEngine

logger = logging.getLogger(__name__)

CANCELLATION_POLL = 0.1


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
        """Stop the engine, once every request under way has been answered."""
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
    """A request's text: passed on piece by piece when streaming, else kept for the one response.

    The newest piece is always kept back, so that the last response has text of its own and no request gets an empty one
    more than it needs.
    """

    request: GenerateRequest
    pass_on: Callable[[Delta], None]
    kept: list[Delta] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        if self.request.stream and self.kept:
            self.pass_on(self.kept.pop())
        self.kept.append(delta)

    def rest(self) -> Delta:
        """What has not been passed on, as one."""
        logprobs = [position for delta in self.kept for position in delta.logprobs or []]
        text = "".join(delta.text for delta in self.kept)
        return Delta(text, sum(delta.tokens for delta in self.kept), logprobs or None)


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
                sender.send(make(), flags=flags)
            except Exception:
                logger.exception("a response could not be sent")
                if final:
                    self._close_abruptly(sender)

    @staticmethod
    def _close_abruptly(sender: Any) -> None:
        try:
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception:
            logger.exception("a request could not be closed")
