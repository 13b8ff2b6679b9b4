"""Predicates: what a statement says of one generation, as ``ananke_client.provenance.statement`` models it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ananke_client.provenance import canonical_json, sha256
from ananke_client.provenance.trail import trail_of
from ananke_client.report import ConstraintReport
from ananke_server.engine.attempts import Attempt
from ananke_server.engine.request import GenerateRequest
from ananke_server.engine.sampling import recorded_parameters
from ananke_server.engine.timeline import Timeline
from ananke_server.provenance.identity import ModelIdentity
from ananke_server.provenance.surroundings import now, versions

if TYPE_CHECKING:
    from vllm.config import VllmConfig


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What is the same for every generation of a server: parts of a predicate."""

    model: dict[str, Any]
    engine: dict[str, Any]
    device: str

    @classmethod
    def of(cls, identity: ModelIdentity, config: VllmConfig, device: str) -> EngineFacts:
        """The facts of a started engine."""
        model = config.model_config
        engine = {
            "runner": "v2" if os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1" else "v1",
            "dtype": str(model.dtype).removeprefix("torch."),
            "quantization": None if model.quantization is None else str(model.quantization),
            "max_model_len": int(model.max_model_len),
            "tensor_parallel_size": int(config.parallel_config.tensor_parallel_size),
            "pipeline_parallel_size": int(config.parallel_config.pipeline_parallel_size),
            "enforce_eager": bool(model.enforce_eager),
        }
        return cls(identity.to_json(), engine, device)


@dataclass(frozen=True, slots=True)
class FinishedGeneration:
    """A generation that came to an end, with what was made of it."""

    request: GenerateRequest
    attempt: Attempt
    input_tokens: int
    report: ConstraintReport
    timeline: Timeline
    metrics: dict[str, Any]
    includes_prompt: bool


def predicate(generation: FinishedGeneration, facts: EngineFacts) -> dict[str, Any]:
    """The predicate of a finished generation, all but who signs it."""
    request, attempt, report = generation.request, generation.attempt, generation.report
    verified = report.guarantee == "verified"
    return {
        "request_id": request.request_id,
        "received_at": generation.timeline.received_at,
        "finished_at": now(),
        "prompt": {"sha256": sha256(request.prompt), "tokens": generation.input_tokens},
        "constraint": None if request.constraint is None else _constraint(request.constraint, report),
        "constraint_satisfied": report.constraint_satisfied,
        "verification": {"attempts": attempt.number, "first_seed": attempt.first_seed} if verified else None,
        "output": _output(generation),
        "sampling_parameters": recorded_parameters(attempt.params),
        "model": facts.model,
        "engine": facts.engine,
        "device": facts.device,
        "versions": versions(),
        "timing_ms": generation.metrics["timing_ms"],
        "mask": generation.metrics.get("mask"),
    }


def _constraint(constraint: str, report: ConstraintReport) -> dict[str, Any]:
    return {
        "sha256": sha256(constraint),
        "key": report.key,
        "kind": report.kind,
        "guarantee": report.guarantee,
        "report": {"sha256": sha256(canonical_json(report.model_dump(mode="json")))},
    }


def _output(generation: FinishedGeneration) -> dict[str, Any]:
    timeline, last = generation.timeline, generation.attempt.last
    return {
        "tokens": len(timeline.token_ids),
        "finish_reason": last.finish_reason,
        "stop_reason": last.stop_reason,
        "includes_prompt": generation.includes_prompt,
        "token_trail": trail_of(timeline.text, timeline.token_ids),
    }
