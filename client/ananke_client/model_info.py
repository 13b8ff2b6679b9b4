"""Model info: what Triton itself knows of a model, typed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Info(BaseModel):
    # protobuf's JSON writes 64-bit integers as text, so values are converted.
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class TensorMetadata(_Info):
    """One input or output; -1 in ``shape`` is any size."""

    name: str
    datatype: str
    shape: list[int] = Field(default_factory=list)


class ModelMetadata(_Info):
    """A model as Triton serves it."""

    name: str
    platform: str = ""
    versions: list[str] = Field(default_factory=list)
    inputs: list[TensorMetadata] = Field(default_factory=list)
    outputs: list[TensorMetadata] = Field(default_factory=list)


class StatisticDuration(_Info):
    """How often something happened, and how long it took in all."""

    count: int = 0
    ns: int = 0
    """Nanoseconds, summed."""


class InferenceStatistics(_Info):
    """Where a model's requests spent their time; an ensemble has its steps' times among its own."""

    success: StatisticDuration = StatisticDuration()
    fail: StatisticDuration = StatisticDuration()
    queue: StatisticDuration = StatisticDuration()
    compute_input: StatisticDuration = StatisticDuration()
    compute_infer: StatisticDuration = StatisticDuration()
    compute_output: StatisticDuration = StatisticDuration()
    cache_hit: StatisticDuration = StatisticDuration()
    cache_miss: StatisticDuration = StatisticDuration()


class ModelStatistics(_Info):
    """Triton's counters of one version of a model, since the server started."""

    name: str
    version: str
    last_inference: int = 0
    """Time of the last request, in milliseconds since the epoch; 0 before the first."""
    inference_count: int = 0
    execution_count: int = 0
    inference_stats: InferenceStatistics = InferenceStatistics()


class StatisticsReply(_Info):
    """Triton's reply about one model: an entry for each version."""

    model_stats: list[ModelStatistics] = Field(default_factory=list)
