"""The models ``generate_once`` and ``guided_relay``: requests and responses of Triton, on the engine of ``guided_vllm``.

``generate_once`` takes plain inference, one request and one response, which Triton refuses on decoupled models, as those that stream are.
``guided_relay`` streams, from several processes: to send a response takes Python's lock for longer than the engine's event loop takes for
the token in it, and whatever waits for that lock beside the loop holds up all streams.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import threading
from typing import Any

from ananke_client.errors import CancelledError, InvalidRequestError
from ananke_server.engine.prompt import require_size
from ananke_server.engine.request import Command, GenerateRequest
from ananke_server.heap import release, settle
from ananke_server.triton.access import Access
from ananke_server.triton.cancellation import CancellationWatch
from ananke_server.triton.codec import decode_request, outputs_of
from ananke_server.triton.process import begin
from ananke_server.triton.relay import relay_path
from ananke_server.triton.relay_client import LostEngineError, RelayClient, RelayedCall
from ananke_server.triton.request_metrics import RefusedRequests
from ananke_server.triton.responses import DRAIN_SECONDS, ResponsePipe, Responses

logger = logging.getLogger(__name__)


class TritonPythonModel:
    """``execute`` returns at once, and each request gets its responses from a task: as many run at once as the engine takes."""

    def initialize(self, args: dict[str, str]) -> None:
        """Ready at once; the engine is called when the first request comes."""
        settings = begin(sends=True)
        self._streams = json.loads(args["model_config"]).get("model_transaction_policy", {}).get("decoupled", False)
        self._access = Access.of(settings)
        self._max_prompt_bytes = settings.max_prompt_bytes
        self._pipe = ResponsePipe()
        self._cancellation = CancellationWatch()
        self._metrics = RefusedRequests(self._pipe)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ananke-relay", daemon=True)
        self._thread.start()
        self._relay = RelayClient(relay_path())
        settle()

    def execute(self, requests: list[Any]) -> None:
        """Hand the requests over; a faulty one is answered here."""
        for triton_request in requests:
            sender = triton_request.get_response_sender()
            try:
                request, outputs = self._decoded(triton_request), outputs_of(triton_request)
            except Exception as error:  # every request gets its answer
                self._pipe.open(sender).fail(error)
                self._metrics.count(error)
                continue
            responses = self._pipe.open(sender, outputs, stream=request.stream)
            asyncio.run_coroutine_threadsafe(self._answer(request, responses), self._loop)

    def finalize(self) -> None:
        """End, once the requests under way have been answered or ``DRAIN_SECONDS`` are over."""
        asyncio.run_coroutine_threadsafe(self._drain(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._cancellation.close()
        self._pipe.close()
        self._metrics.close()
        release()

    def _decoded(self, triton_request: Any) -> GenerateRequest:
        request = decode_request(triton_request, self._access)
        if isinstance(request, Command):
            raise InvalidRequestError(f"{request.verb} is a command to guided_vllm: send it there")
        if request.stream and not self._streams:
            raise InvalidRequestError("generate_once gives one response: leave stream out, or call generate")
        # The engine's process asks again, of those who call it directly: here, before its loop has to read it all.
        require_size(request.prompt, self._max_prompt_bytes)
        return request

    async def _answer(self, request: GenerateRequest, responses: Responses) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        call: RelayedCall | None = None
        try:
            with self._cancellation.over(responses, functools.partial(self._loop.call_soon_threadsafe, task.cancel)):
                call = await self._relay.call(request, responses.add)
                result = await call.end()
        except asyncio.CancelledError:
            self._fail(responses, CancelledError("nobody takes the responses any more"), call)
        except Exception as error:  # every request gets its answer
            if not hasattr(error, "code"):
                logger.exception("request %s failed", request.request_id)
            self._fail(responses, error, call)
        else:
            responses.finish(result)
        finally:
            self._tasks.discard(task)

    def _fail(self, responses: Responses, error: Exception, call: RelayedCall | None) -> None:
        responses.fail(error)
        # Else the engine's process counts it.
        if call is None or isinstance(error, LostEngineError):
            self._metrics.count(error)

    async def _drain(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN_SECONDS)
        await self._relay.close()
