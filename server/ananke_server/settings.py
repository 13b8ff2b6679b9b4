"""Settings of the server, read from the environment: ``ANANKE_MODEL``, ``ANANKE_MAX_NUM_SEQS`` and so on."""

from __future__ import annotations

import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ananke_server.constraints.limits import Limits
from ananke_server.launch import PROJECT
from ananke_server.masking.crew import default_processes

# Speculative decoding samples several tokens a step, and sharded sampling other rows on each GPU: masks are not made for either.
_RESERVED_ENGINE_ARGS = frozenset(
    {"logits_processors", "worker_extension_cls", "speculative_config", "enable_trace_replay", "enable_batch_sharded_sampling"}
)


class Settings(BaseSettings):
    """Every setting with its default; an environment variable is its name in capitals after ``ANANKE_``."""

    model_config = SettingsConfigDict(
        env_prefix="ANANKE_", env_nested_delimiter="__", frozen=True, env_ignore_empty=True, protected_namespaces=()
    )

    model: str
    """A folder in Hugging Face's layout, or a name on the hub."""
    revision: str | None = None
    dtype: str = "auto"
    """The model's own on a GPU, float32 on CPU by default."""
    max_model_len: int | None = Field(None, gt=0)
    """Tokens of prompt and output together; the model's own limit by default."""
    max_num_seqs: int = Field(256, gt=0)
    """Requests that share a step of the engine."""
    tensor_parallel_size: int = Field(1, gt=0)
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    cpu_kv_cache_gib: int = Field(2, gt=0)
    """GiB of KV cache where the engine runs on CPU."""
    enforce_eager: bool | None = None
    """Run without compilation and CUDA graphs; on by default on CPU, where compilation would need a C++ compiler."""
    load_format: str = "auto"
    runner: Literal["auto", "v1", "v2"] = "auto"
    """vLLM's model runner; V2 on a GPU, V1 on CPU by default."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's ``AsyncEngineArgs``, as a JSON object."""

    mask_processes: int = Field(default_factory=default_processes, gt=0, le=128)
    """Processes that fill masks side by side; by default the machine's cores less four, at least one."""

    request_timeout: float = Field(600.0, gt=0)
    """Seconds after which a request ends that set no deadline of its own."""
    max_pending: int = Field(1024, gt=0)
    """Requests in the engine, running and waiting; one more is answered as overloaded."""

    idle_timeout: float | None = Field(None, gt=0)
    """Seconds without a request after which the engine lets go of its GPU, to be woken by the next request; by default never."""
    sleep_level: Literal[0, 1, 2] = 1
    """How deep it sleeps: 1 keeps the weights in the host's memory, 2 reads them again, 0 ends its processes, as on CPU."""

    limits: Limits = Field(default_factory=Limits)
    """How large a constraint may be, and what compiling it may take: ``ANANKE_LIMITS__BYTES``, ``ANANKE_LIMITS__COMPILE_MIB`` and so on."""
    sandbox_workers: int = Field(default_factory=lambda: max(2, min(8, len(os.sched_getaffinity(0)) // 2)), gt=0)
    """Constraints compiled at once; as many more, at least four, that take longer than 0.1 s. Each may take ``limits.compile_mib``."""
    compile_cache_entries: int = Field(4096, gt=0)
    """Compiled constraints that each process of a model keeps."""
    compile_cache_mib: int = Field(256, gt=0)
    """MiB that they may take in each process."""

    signing_key_file: Path | None = None
    """An Ed25519 private key in PEM that signs provenance; without one it is unsigned. ``make key`` makes one."""
    signing_key: SecretStr | None = None
    """The key itself, in place of a file; a line's end may be written as ``\\n``."""
    digest_cache: Path = PROJECT / ".ananke" / "run" / "digests.json"
    """Where the digests of the model's files are kept between starts."""
    provenance_log: Path | None = None
    """A file to which the provenance of each finished request is appended, a JSON line each."""
    provenance_log_mib: int = Field(64, gt=0)
    """MiB after which the log goes on in a new file."""
    provenance_log_files: int = Field(16, ge=0)
    """Files before the current one that are kept."""
    provenance_log_fsync: Literal["always", "interval", "never"] = "interval"
    """When a line is on the disk: before the request is answered, a second later, or as the kernel likes."""
    provenance_log_content: bool = False
    """Write prompt, constraint and output into the log too, not digests alone."""

    verify_attempts: int = Field(4, gt=0)
    """How often an output is sampled at most until one passes the verification that its constraint asks for."""

    default_max_tokens: int = Field(2048, gt=0)
    default_temperature: float = Field(0.7, ge=0)
    default_top_p: float = Field(0.95, gt=0, le=1)
    default_top_k: int = Field(50, ge=0)

    @field_validator("engine_args")
    @classmethod
    def _leave_masking_alone(cls, engine_args: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(engine_args.keys() & _RESERVED_ENGINE_ARGS):
            raise ValueError(f"{', '.join(taken)} would break masking and cannot be set")
        return engine_args

    @field_validator("limits", mode="before")
    @classmethod
    def _known_limits(cls, limits: Any) -> Any:
        names = [field.name for field in fields(Limits)]
        if isinstance(limits, dict) and (unknown := sorted(limits.keys() - set(names))):
            raise ValueError(f"there is no limit {', '.join(unknown)}; limits: {', '.join(names)}")
        return limits

    @field_validator("limits")
    @classmethod
    def _positive_limits(cls, limits: Limits) -> Limits:
        if unset := [name for name, value in asdict(limits).items() if value <= 0]:
            raise ValueError(f"{', '.join(unset)} must be positive")
        return limits


def load_settings() -> Settings:
    """The settings of this process's environment."""
    return Settings()  # type: ignore[call-arg]
