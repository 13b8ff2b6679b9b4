"""The ``guided_vllm`` model: requests of Triton onto the engine's event loop, and their answers back."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ananke_client.errors import CancelledError
from ananke_server.engine.request import Command, GenerateRequest
from ananke_server.engine.timeline import Timeline
from ananke_server.handover import Seal
from ananke_server.heap import release, settle
from ananke_server.logs import ContentLog
from ananke_server.model_processes import ModelProcesses
from ananke_server.tracing import start_tracing
from ananke_server.triton.access import Access, log_openness
from ananke_server.triton.cancellation import CancellationWatch
from ananke_server.triton.codec import decode_request, outputs_of
from ananke_server.triton.guided_metrics import GuidedMetrics
from ananke_server.triton.process import begin
from ananke_server.triton.relay import relay_path
from ananke_server.triton.relay_server import RelayedResponses, RelayServer
from ananke_server.triton.request_record import RequestRecord
from ananke_server.triton.responses import DRAIN_SECONDS, ResponsePipe, Responses
from ananke_server.triton.under_way import Entry, UnderWay

if TYPE_CHECKING:
    from ananke_server.engine.engine import GuidedEngine

Watch = Callable[[Callable[[], object]], AbstractContextManager[None]]
"""Within its ``with`` block what it is given is called once nobody takes a request's responses any more."""


class TritonPythonModel:
    """Decoupled: ``execute`` returns at once, and every request gets its responses from the event loop's tasks."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the engine; the model is ready when this returns."""
        # vLLM takes long to import, and Triton imports a model's module twice.
        from ananke_server.engine.engine import GuidedEngine

        settings = begin(sends=True)
        log_openness(settings)
        self._access = Access.of(settings)
        self._content = ContentLog(enabled=settings.log_content)
        self._pipe = ResponsePipe()
        self._cancellation = CancellationWatch()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="ananke-engine", daemon=True).start()
        self._engine: GuidedEngine = self._on_loop(GuidedEngine.start(settings, Seal.shared()))
        self._under_way = UnderWay()
        self._metrics = GuidedMetrics(self._pipe, self._engine)
        self._record = RequestRecord(self._metrics, start_tracing(settings.otlp_endpoint))
        self._relay = RelayServer(relay_path(), self._answer_relayed)
        self._on_loop(self._relay.start())
        self._models = ModelProcesses(os.getppid())
        settle()

    def execute(self, requests: list[Any]) -> None:
        """Hand the requests over; a faulty one is answered here."""
        for triton_request in requests:
            sender = triton_request.get_response_sender()
            try:
                request, outputs = decode_request(triton_request, self._access), outputs_of(triton_request)
            except Exception as error:  # every request gets its answer
                self._pipe.open(sender).fail(error)
                self._metrics.count_error(error, 0, Timeline())
                continue
            if isinstance(request, Command):
                asyncio.run_coroutine_threadsafe(self._obey(request, self._pipe.open(sender, outputs)), self._loop)
                continue
            responses = self._pipe.open(sender, outputs, stream=request.stream)
            watch = functools.partial(self._cancellation.over, responses)
            asyncio.run_coroutine_threadsafe(self._answer(request, responses, watch), self._loop)

    def finalize(self) -> None:
        """Stop the engine, once the requests under way have been answered or ``DRAIN_SECONDS`` are over."""
        self._loop.call_soon_threadsafe(self._relay.refuse)
        self._on_loop(self._drain())
        self._on_loop(self._engine.shutdown())
        self._on_loop(self._relay.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._cancellation.close()
        self._pipe.close()
        self._metrics.close()
        self._record.close()
        release()
        Seal.forget()

    async def _answer_relayed(self, request: GenerateRequest, responses: RelayedResponses) -> None:
        await self._answer(request, responses, responses.over)

    async def _answer(self, request: GenerateRequest, responses: Responses | RelayedResponses, watch: Watch) -> None:
        generation = asyncio.current_task()
        assert generation is not None
        timeline = Timeline("none" if request.constraint is None else "unknown")
        entry: Entry | None = None
        try:
            with self._under_way.entry(request, generation.cancel) as entry:
                gone = functools.partial(self._loop.call_soon_threadsafe, entry.cancel, "nobody takes the responses any more")
                with watch(gone), self._content.of(request, responses.add) as emit:
                    result = await self._engine.generate(request, emit, timeline)
        except asyncio.CancelledError:
            reason = None if entry is None else entry.reason
            error = CancelledError(reason or "the server is shutting down")
            responses.fail(error)
            self._record.failed(request, error, responses.tokens, timeline)
        except Exception as error:  # every request gets its answer
            responses.fail(error)
            self._record.failed(request, error, responses.tokens, timeline)
        else:
            responses.finish(result)
            self._record.finished(request, result, responses.tokens, timeline)

    async def _status(self) -> str:
        status = self._engine.status() | {"last_error": self._record.last_error}
        if (lost := await asyncio.to_thread(self._models.lost)) is not None:
            status |= {"ready": False, "lost_model": lost}
        return json.dumps(status)

    async def _obey(self, command: Command, responses: Responses) -> None:
        try:
            if command.verb == "status":
                responses.answer(await self._status())
                return
            obey = self._under_way.cancel if command.verb == "cancel" else self._under_way.renew
            running = [obey(name, command.key_name) for name in command.names]
            responses.answer(any(running))
        except Exception as error:  # every request gets its answer
            responses.fail(error)

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._engine.pending:
                    await asyncio.sleep(0.05)

    def _on_loop(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
