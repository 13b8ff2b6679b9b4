"""The ``validate`` model: constraints in, reports and sealed grammars out."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ananke_client.errors import AnankeError, ErrorCode, InternalError
from ananke_client.report import ConstraintReport, Diagnostic
from ananke_server.constraints import UNCONSTRAINED, CompiledConstraint
from ananke_server.constraints.cache import BoundedCache
from ananke_server.constraints.service import make_compiler
from ananke_server.handover import Seal
from ananke_server.logs import configure_logging
from ananke_server.protection import usual_stacks
from ananke_server.settings import load_settings
from ananke_server.tracing import start_tracing
from ananke_server.triton.access import Access
from ananke_server.triton.codec import known_error, text_of, triton_error
from ananke_server.triton.validate_metrics import ValidateMetrics

logger = logging.getLogger(__name__)

# They wait for the sandbox, mostly.
_THREADS = 64
_ARENAS = 2
_M_ARENA_MAX = -8
"""Of glibc's ``malloc.h``."""
_NOT_KEPT = frozenset((ErrorCode.OVERLOADED, ErrorCode.INTERNAL))


class TritonPythonModel:
    """Answers every constraint with a report, a refused one too: a refusal is for ``guided_vllm`` to make an error of.

    Texts seen before are answered at once, the rest from threads, so that no request waits for another's compilation.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Start the sandbox, or join that of another instance; the model is ready when this returns."""
        settings = load_settings()
        configure_logging(settings)
        usual_stacks()
        self._access = Access.of(settings)
        _limit_arenas()
        self._compiler = make_compiler(settings)
        self._compiler.start()
        self._seal = Seal.shared()
        self._answers: BoundedCache[bytes, Answer] = BoundedCache(settings.compile_cache_entries, settings.compile_cache_mib << 20)
        self._lock = threading.Lock()
        self._unconstrained = self._prepared(None, UNCONSTRAINED)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ananke-validate")
        self._metrics = ValidateMetrics(self._compiler)
        self._tracing = start_tracing()

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """One response a request: returned where all answers are known, else sent when they are."""
        parameters: list[dict[str, Any]] = [{} for _ in requests]
        answers = [self._known(request, taken) for request, taken in zip(requests, parameters, strict=True)]
        known = [_response(request, answer) for request, answer in zip(requests, answers, strict=True) if answer is not None]
        if len(known) == len(requests):
            return known
        for request, taken, answer in zip(requests, parameters, answers, strict=True):
            sender = request.get_response_sender()
            if answer is not None:
                _send(sender, _response(request, answer))
            else:
                self._threads.submit(self._respond, request, taken, sender, time.monotonic())
        return None

    def finalize(self) -> None:
        """Let go of the sandbox, once the requests under way have been answered."""
        self._threads.shutdown()
        self._metrics.close()
        self._compiler.close()
        if self._tracing is not None:
            self._tracing.close()

    def _known(self, request: Any, parameters: dict[str, Any]) -> Answer | AnankeError | None:
        """The answer where it is known, or why the request is refused unread. Fills in its parameters."""
        begun = time.monotonic()
        try:
            parameters |= self._access.admit(request)[0]
        except Exception as fault:  # every request gets its answer
            error = known_error(fault)
            self._metrics.count_refusal(str(error.code))
            return error
        answer = self._remembered(request)
        if answer is not None:
            self._trace(request, parameters, answer, begun, cached=True)
        return answer

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

    def _respond(self, request: Any, parameters: dict[str, Any], sender: Any, begun: float) -> None:
        try:
            answer = self._answer(request)
            _send(sender, _response(request, answer))
            self._trace(request, parameters, answer, begun, cached=False)
        except Exception:
            logger.exception("request %s: its report could not be sent", request.request_id(), extra={"request_id": request.request_id()})

    def _answer(self, request: Any) -> Answer:
        text, kept = None, True
        try:
            text = text_of(request, "constraint")
            compiled = UNCONSTRAINED if text is None else self._compiler.compile(text)
        except Exception as error:  # validate always answers with a report
            if not isinstance(error, AnankeError):
                name = request.request_id()
                logger.exception("request %s: its constraint could not be compiled", name, extra={"request_id": name})
                error = InternalError(f"{type(error).__name__}: {error}")
            kept = error.code not in _NOT_KEPT
            refused = ConstraintReport(accepted=False, errors=[Diagnostic(code=error.code, message=error.message)])
            compiled = CompiledConstraint(refused, None)
        answer = self._prepared(text, compiled)
        self._metrics.count_refusal(answer.refusal)
        digest = _digest(pb_utils.get_input_tensor_by_name(request, "constraint")) if kept else None
        if digest is not None:
            with self._lock:
                self._answers.put(digest, answer, answer.bytes)
        return answer

    def _trace(self, request: Any, parameters: dict[str, Any], answer: Answer, begun: float, *, cached: bool) -> None:
        if self._tracing is not None:
            self._tracing.validation(parameters, request.request_id(), begun, cached=cached, refusal=answer.refusal)

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
