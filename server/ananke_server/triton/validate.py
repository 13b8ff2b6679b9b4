"""The ``validate`` model: constraints in, reports and sealed grammars out."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ananke_client.errors import AnankeError, DeadlineExceededError, ErrorCode, InternalError, OverloadedError
from ananke_client.report import ConstraintReport, Diagnostic
from ananke_server.constraints import UNCONSTRAINED, CompiledConstraint
from ananke_server.constraints.cache import BoundedCache
from ananke_server.constraints.service import make_compiler
from ananke_server.fairness.lane import Lane
from ananke_server.handover import Seal
from ananke_server.heap import settle
from ananke_server.tracing import start_tracing
from ananke_server.triton.access import Access
from ananke_server.triton.codec import client_of, deadline_of, known_error, text_of, triton_error
from ananke_server.triton.process import begin
from ananke_server.triton.validate_metrics import ValidateMetrics

logger = logging.getLogger(__name__)

# They wait for the sandbox, mostly.
_THREADS = 64
_ARENAS = 2
_M_ARENA_MAX = -8
"""Of glibc's ``malloc.h``."""
_NOT_KEPT = frozenset((ErrorCode.OVERLOADED, ErrorCode.DEADLINE_EXCEEDED, ErrorCode.INTERNAL))


class TritonPythonModel:
    """Answers every constraint with a report, a refused one too: a refusal is for ``guided_vllm`` to make an error of.

    Texts seen before are answered at once, the rest from threads, so that no request waits for another's compilation. Clients have fair
    shares of these, and what would wait longer than its deadline, or in a longer queue than the engine's, is refused.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Start the sandbox, or join that of another instance; the model is ready when this returns."""
        settings = begin()
        self._access = Access.of(settings)
        _limit_arenas()
        self._compiler = make_compiler(settings)
        self._compiler.start()
        self._seal = Seal.shared()
        self._answers: BoundedCache[bytes, Answer] = BoundedCache(settings.compile_cache_entries, settings.compile_cache_mib << 20)
        self._lock = threading.Lock()
        self._unconstrained = self._prepared(None, UNCONSTRAINED)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ananke-validate")
        self._lane = Lane(_THREADS, settings.max_pending)
        self._running = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="ananke-validate-turns", daemon=True).start()
        self._metrics = ValidateMetrics(self._compiler, lambda: self._running)
        self._tracing = start_tracing(settings.otlp_endpoint)
        settle()

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """One response a request: returned where all answers are known, else sent when they are."""
        calls = [self._begun(request) for request in requests]
        known = [_response(call.request, call.answer) for call in calls if call.answer is not None]
        if len(known) == len(calls):
            return known
        for call in calls:
            sender = call.request.get_response_sender()
            if call.answer is not None:
                _send(sender, _response(call.request, call.answer))
            else:
                asyncio.run_coroutine_threadsafe(self._in_turn(call, sender), self._loop)
        return None

    def finalize(self) -> None:
        """Let go of the sandbox, once the requests under way have been answered."""
        asyncio.run_coroutine_threadsafe(_others_done(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._threads.shutdown()
        self._metrics.close()
        self._compiler.close()
        if self._tracing is not None:
            self._tracing.close()

    def _begun(self, request: Any) -> Call:
        """A request with its answer, where it is known or the request is refused unread."""
        begun = time.monotonic()
        try:
            parameters, key_name = self._access.admit(request)
            call = Call(request, begun, parameters, client_of(parameters, key_name), deadline_of(parameters))
        except Exception as fault:  # every request gets its answer
            error = known_error(fault)
            self._metrics.count_refusal(str(error.code))
            return Call(request, begun, answer=error)
        call.answer = self._remembered(request)
        if call.answer is not None:
            self._trace(call, call.answer, cached=True)
        return call

    def _remembered(self, request: Any) -> Answer | None:
        tensor = pb_utils.get_input_tensor_by_name(request, "constraint")
        if tensor is None:
            return self._unconstrained
        digest = _digest(tensor)
        with self._lock:
            answer = None if digest is None else self._answers.get(digest)
        if answer is not None:
            self._metrics.count_hit(answer.refusal)
        return answer

    async def _in_turn(self, call: Call, sender: Any) -> None:
        """Answer when it is the client's turn, or say that it did not come."""
        self._running += 1
        try:
            async with asyncio.timeout(call.deadline) as patience, self._lane.place(call.client):
                patience.reschedule(None)
                await self._loop.run_in_executor(self._threads, self._respond, call, sender)
        except TimeoutError:
            self._respond(call, sender, DeadlineExceededError(f"its constraint waited {call.deadline:g} s to be compiled"))
        except OverloadedError as overload:
            self._respond(call, sender, overload)
        finally:
            self._running -= 1

    def _respond(self, call: Call, sender: Any, refused: AnankeError | None = None) -> None:
        """Compile, unless the request is refused unread, and send the answer."""
        try:
            answer = self._answer(call, refused)
            _send(sender, _response(call.request, answer))
            self._trace(call, answer, cached=False)
        except Exception:
            name = call.request.request_id()
            logger.exception("request %s: its report could not be sent", name, extra={"request_id": name})

    def _answer(self, call: Call, refused: AnankeError | None) -> Answer:
        text, kept = None, True
        try:
            text = text_of(call.request, "constraint")
            if refused is not None:
                raise refused
            compiled = UNCONSTRAINED if text is None else self._compiler.compile(text, call.client)
        except Exception as error:  # validate always answers with a report
            if not isinstance(error, AnankeError):
                name = call.request.request_id()
                logger.exception("request %s: its constraint could not be compiled", name, extra={"request_id": name})
                error = InternalError(f"{type(error).__name__}: {error}")
            kept = error.code not in _NOT_KEPT
            refusal = ConstraintReport(accepted=False, errors=[Diagnostic(code=error.code, message=error.message)])
            compiled = CompiledConstraint(refusal, None)
        answer = self._prepared(text, compiled)
        self._metrics.count_refusal(answer.refusal)
        digest = _digest(pb_utils.get_input_tensor_by_name(call.request, "constraint")) if kept else None
        if digest is not None:
            with self._lock:
                self._answers.put(digest, answer, answer.bytes)
        return answer

    def _trace(self, call: Call, answer: Answer, *, cached: bool) -> None:
        if self._tracing is not None:
            self._tracing.validation(call.parameters, call.request.request_id(), call.begun, cached=cached, refusal=answer.refusal)

    def _prepared(self, text: str | None, compiled: CompiledConstraint) -> Answer:
        report = compiled.report.model_dump_json().encode("utf-8", errors="replace")
        errors = compiled.report.errors
        return Answer(_array(report), _array(self._seal.close(text, compiled)), str(errors[0].code) if errors else None)


@dataclass(frozen=True, slots=True)
class Answer:
    """The outputs as they go into tensors, and the code of a refusal."""

    report: np.ndarray[Any, Any]
    compiled: np.ndarray[Any, Any]
    refusal: str | None

    @property
    def bytes(self) -> int:
        """About the memory that it takes."""
        return 1024 + len(self.report[0]) + len(self.compiled[0])


@dataclass(slots=True)
class Call:
    """A request, and its answer where that is known at once."""

    request: Any
    begun: float
    parameters: dict[str, Any] = field(default_factory=dict)
    client: str = ""
    deadline: float | None = None
    """Seconds."""
    answer: Answer | AnankeError | None = None


async def _others_done() -> None:
    """Return once every other task of this event loop has ended."""
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


def _limit_arenas() -> None:
    """Let glibc's threads share what they free: an arena for each keeps large constraints' memory, 60 MiB more after 6,000 odd ones."""
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def _response(request: Any, answer: Answer | AnankeError) -> Any:
    if isinstance(answer, AnankeError):
        return pb_utils.InferenceResponse(output_tensors=[], error=triton_error(answer))
    # As with codec.outputs_of: an output that nobody takes must not be sent.
    taken = request.requested_output_names()
    outputs = {"constraint_report": answer.report, "compiled": answer.compiled}
    return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(name, array) for name, array in outputs.items() if name in taken])


def _send(sender: Any, response: Any) -> None:
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _digest(tensor: Any) -> bytes | None:
    """The SHA-256 of a tensor of one text; None for any other."""
    values = tensor.as_numpy()
    if values.size != 1 or not isinstance(value := values.item(), bytes):
        return None
    return hashlib.sha256(value).digest()


def _array(data: bytes) -> np.ndarray[Any, Any]:
    return np.array([data], dtype=np.object_)
