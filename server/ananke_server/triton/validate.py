"""The ``validate`` model: constraints in, reports and sealed grammars out."""

from __future__ import annotations

import logging
from typing import Any

import triton_python_backend_utils as pb_utils

from ananke_client.errors import AnankeError, InternalError
from ananke_client.report import ConstraintReport, Diagnostic
from ananke_server.constraints import UNCONSTRAINED, CompiledConstraint, Compiler
from ananke_server.handover import Seal
from ananke_server.masking.tokenizer import model_tokenizer
from ananke_server.settings import load_settings
from ananke_server.triton.codec import bytes_tensor, text_of

logger = logging.getLogger(__name__)


class TritonPythonModel:
    """Answers every constraint with a report, a refused one too: a refusal is for ``guided_vllm`` to make an error of."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer."""
        settings = load_settings()
        self._compiler = Compiler(model_tokenizer(settings.model, settings.revision))
        self._seal = Seal.shared()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, in order."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        text = None
        try:
            text = text_of(request, "constraint")
            compiled = UNCONSTRAINED if text is None else self._compiler.compile(text)
        except Exception as error:  # validate always answers with a report
            if not isinstance(error, AnankeError):
                logger.exception("a constraint could not be compiled")
                error = InternalError(f"{type(error).__name__}: {error}")
            refused = ConstraintReport(accepted=False, errors=[Diagnostic(code=error.code, message=error.message)])
            compiled = CompiledConstraint(refused, None)
        tensors = [bytes_tensor("constraint_report", compiled.report.model_dump_json())]
        if "compiled" in request.requested_output_names():
            tensors.append(bytes_tensor("compiled", self._seal.close(text, compiled)))
        return pb_utils.InferenceResponse(output_tensors=tensors)
