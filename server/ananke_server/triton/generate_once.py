"""The ``generate_once`` model: plain inference, one request and one response, on the engine of ``guided_vllm``.

Triton refuses plain ``infer`` on decoupled models, as those that stream are; this model is none.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from typing import Any

from ananke_client.errors import CancelledError, InvalidRequestError
from ananke_server.engine.request import Command, GenerateRequest
from ananke_server.heap import release, settle
from ananke_server.logs import configure_logging
from ananke_server.protection import usual_stacks
from ananke_server.settings import load_settings
from ananke_server.triton.access import Access
from ananke_server.triton.cancellation import CancellationWatch
from ananke_server.triton.codec import decode_request, outputs_of
from ananke_server.triton.relay import relay_path
from ananke_server.triton.relay_client import RelayClient
from ananke_server.triton.request_metrics import RefusedRequests
from ananke_server.triton.responses import ResponsePipe, Responses

logger = logging.getLogger(__name__)

# Less than the 28 s that the launcher has Triton wait at its exit: the engine's end takes some of them.
DRAIN_SECONDS = 15.0


class TritonPythonModel:
    """``execute`` returns at once, and each request gets its one response from a task: as many run at once as the engine takes."""

    def initialize(self, args: dict[str, str]) -> None:
        """Ready at once; the engine is called when the first request comes."""
        settings = load_settings()
        configure_logging(settings)
        usual_stacks()
        self._access = Access.of(settings)
        self._pipe = ResponsePipe()
        self._cancellation = CancellationWatch()
        self._refused = RefusedRequests()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ananke-once", daemon=True)
        self._thread.start()
        self._relay = RelayClient(relay_path())
        settle()

    def execute(self, requests: list[Any]) -> None:
        """Hand the requests over; a faulty one is answered here."""
        for triton_request in requests:
            sender = triton_request.get_response_sender()
            try:
                request, outputs = _decoded(triton_request, self._access), outputs_of(triton_request)
            except Exception as error:  # every request gets its answer
                self._pipe.open(sender).fail(error)
                self._refused.count(error)
                continue
            responses = self._pipe.open(sender, outputs)
            asyncio.run_coroutine_threadsafe(self._answer(request, responses), self._loop)

    def finalize(self) -> None:
        """End, once the requests under way have been answered or ``DRAIN_SECONDS`` are over."""
        asyncio.run_coroutine_threadsafe(self._drain(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._cancellation.close()
        self._pipe.close()
        self._refused.close()
        release()

    async def _answer(self, request: GenerateRequest, responses: Responses) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with self._cancellation.over(responses, functools.partial(self._loop.call_soon_threadsafe, task.cancel)):
                text, result = await self._relay.generate(request)
        except asyncio.CancelledError:
            responses.fail(CancelledError("nobody takes the response any more"))
        except Exception as error:  # every request gets its answer
            if not hasattr(error, "code"):
                logger.exception("request %s failed", request.request_id)
            responses.fail(error)
        else:
            responses.add(text)
            responses.finish(result)
        finally:
            self._tasks.discard(task)

    async def _drain(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN_SECONDS)
        await self._relay.close()


def _decoded(triton_request: Any, access: Access) -> GenerateRequest:
    request = decode_request(triton_request, access)
    if isinstance(request, Command):
        raise InvalidRequestError(f"{request.verb} is a command to guided_vllm: send it there")
    if request.stream:
        raise InvalidRequestError("generate_once gives one response: leave stream out, or call generate")
    return request
