"""Sections: every setting with its type, its default and what it means, under the name that it has in config.yaml."""

from __future__ import annotations

import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator

from ananke_server.constraints.kinds import Kinds
from ananke_server.constraints.limits import Limits
from ananke_server.cores import available
from ananke_server.launch import DEFAULT_MODEL, PROJECT
from ananke_server.masking.board import MOST_PROCESSES
from ananke_server.masking.crew import default_processes
from ananke_server.settings.nearest import no_such

# Speculative decoding samples several tokens a step, and sharded sampling other rows on each GPU: masks are not made for either.
_RESERVED_ENGINE_ARGS = frozenset(
    {"logits_processors", "worker_extension_cls", "speculative_config", "enable_trace_replay", "enable_batch_sharded_sampling"}
)
_UNSAFE_ENGINE_ARGS = frozenset({"enable_prompt_embeds", "enable_mm_embeds"})
_PICKLES = frozenset({"pt", "npcache"})
_NO_LORA = "LoRA adapters are not served: merge the adapter into the model, or leave enable_lora false"
_MOST_VALIDATE_INSTANCES = 8
_MOST_RELAYS = 4

ProjectPath = Annotated[Path, AfterValidator(lambda path: PROJECT / path.expanduser())]
"""A path that starts at the project's folder where it is relative."""
Port = Annotated[int, Field(gt=0, le=65535)]
Endpoint = Literal["model-repository", "shared-memory", "trace", "logging", "metadata", "model-config", "statistics"]
"""A group of Triton's endpoints, by Triton's own name."""


class Section(BaseModel):
    """A section of config.yaml; the docstring of a field is its description there."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, protected_namespaces=(), allow_inf_nan=False)


class ServiceSection(Section):
    """What the service is called, and where it listens."""

    name: str = Field(default="ananke", min_length=1, pattern=r"^\S+$")
    """The server's name, in Triton's metadata (`GET /v2`) and in each JSON line of the log."""
    host: str = "127.0.0.1"
    """The address that every port is bound to; `0.0.0.0` is all of the machine's."""
    http_port: Port = 8000
    """Triton's HTTP, with its generate extension."""
    grpc_port: Port = 8001
    """Triton's gRPC."""
    http_host: str | None = None
    """The address of Triton's HTTP alone; by default `host`, or 127.0.0.1 where gRPC has TLS, since Triton's HTTP has none."""


class ModelSection(Section):
    """Which model is served."""

    model: str = Field(default=str(DEFAULT_MODEL), min_length=1)
    """A folder in Hugging Face's layout, or a name on the hub; by default the small model that `make setup` makes."""
    available_models: list[str] = Field(default_factory=list)
    """Models that may be served, as folders or names; any model where the list is empty."""
    revision: str | None = None
    """The hub's revision of the model; its newest by default."""
    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = "auto"
    """The type of weights and activations; by default the model's own on a GPU, float32 on CPU."""
    max_model_len: int | None = Field(default=None, gt=0)
    """Tokens of prompt and output together; the model's own limit by default."""
    load_format: str = "safetensors"
    """vLLM's loader of weights; those that read pickles, `pt` and `npcache`, are refused."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository brings, with all that the server may do; only for a repository that you have read."""
    enable_lora: bool = False
    """LoRA adapters; always false, as masks are not tested with them."""

    @field_validator("model")
    @classmethod
    def _from_the_project(cls, model: str) -> str:
        return next((str(folder) for folder in (Path(model).absolute(), PROJECT / model) if folder.is_dir()), model)

    @field_validator("load_format")
    @classmethod
    def _no_pickles(cls, load_format: str) -> str:
        if load_format in _PICKLES:
            raise ValueError("it reads pickles, which run code as they are read: convert the weights to safetensors")
        return load_format

    @field_validator("enable_lora")
    @classmethod
    def _no_lora(cls, enabled: bool) -> bool:
        if enabled:
            raise ValueError(_NO_LORA)
        return enabled


class GpuSection(Section):
    """The GPUs; on CPU nothing of it counts."""

    gpu_profile: Literal["a100-40gb", "a100-80gb"] | None = None
    """Defaults that suit a GPU, for models of about 7B in 16 bits; whatever is set elsewhere wins over them."""
    tensor_parallel_size: int = Field(default=1, gt=0)
    """GPUs that share each layer of the model."""
    pipeline_parallel_size: int = Field(default=1, gt=0)
    """Stages that the model's layers are spread over, each of `tensor_parallel_size` GPUs: for a model that outgrows those."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of each GPU's memory that vLLM takes for weights, activations and KV cache."""


class ContainerSection(Section):
    """Time limits and queues."""

    start_timeout: float = Field(default=900.0, gt=0)
    """Seconds within which a started server must be ready, downloads of the model included."""
    request_timeout: float = Field(default=600.0, gt=0)
    """Seconds after which a request ends that set no deadline of its own."""
    drain_timeout: float = Field(default=20.0, ge=0)
    """Seconds that requests under way may take to end once `scripts/serve.py foreground`, and so a container, is told to stop; new ones
    are taken meanwhile. Then Triton is told: it takes no more, and ends within 35 s."""
    concurrency: int | None = Field(default=None, gt=0)
    """Requests in the engine at once, each client having its fair share of them; by default as many as share a step, `max_num_seqs`, as
    fewer would leave the GPU idle. Preset `development` has 10."""
    max_pending: int = Field(default=1024, gt=0)
    """Requests in the engine and waiting for it; of one more, or of the client that has the most waiting, one is answered as
    overloaded."""
    idle_timeout: float | None = Field(default=None, gt=0)
    """Seconds without a request after which the engine lets go of its GPU, until the next request wakes it; by default never."""
    sleep_level: int = Field(default=1, ge=0, le=2)
    """How deep the engine sleeps then: 1 keeps the weights in the host's memory, which has to have room for them, 2 reads them
    again from where they came, and 0 ends its processes, which is also what happens on CPU."""


class GenerationSection(Section):
    """Sampling parameters of requests that leave them out."""

    default_max_tokens: int = Field(default=2048, gt=0)
    """Bound on the output in tokens; at most what the context leaves."""
    default_temperature: float = Field(default=0.7, ge=0, le=2)
    """0 is greedy."""
    default_top_p: float = Field(default=0.95, gt=0, le=1)
    """Tokens are sampled from the likeliest that have this probability together."""
    default_top_k: int = Field(default=50, ge=0)
    """Tokens are sampled from this many of the likeliest; 0 considers all."""


class ConstraintsSection(Section):
    """What constraints are taken, and how far they are verified."""

    kinds: Kinds = Field(default_factory=Kinds)
    """Kinds of constraints, on or off, within composites too; one that is off is refused as `unsupported_constraint`."""
    limits: Limits = Field(default_factory=Limits)
    """How large a constraint may be, and what compiling it may take."""
    verify_attempts: int = Field(default=4, gt=0)
    """How often an output is sampled at most until one passes the verification that its constraint asks for."""

    @field_validator("kinds", "limits", mode="before")
    @classmethod
    def _known_names(cls, value: Any, info: Any) -> Any:
        what, names = {"kinds": ("kind", fields(Kinds)), "limits": ("limit", fields(Limits))}[info.field_name]
        known = [field.name for field in names]
        if isinstance(value, dict) and (unknown := sorted(value.keys() - set(known))):
            raise ValueError(no_such(what, unknown[0], known))
        return value

    @field_validator("limits")
    @classmethod
    def _positive_limits(cls, limits: Limits) -> Limits:
        if unset := [name for name, value in asdict(limits).items() if value <= 0]:
            raise ValueError(f"the limit {', '.join(unset)} must be positive")
        return limits


class PerformanceSection(Section):
    """How the work is spread over processes, and what is kept."""

    max_num_seqs: int = Field(default=256, gt=0)
    """Requests that share a step of the engine."""
    enforce_eager: bool | None = None
    """Run without compilation and CUDA graphs; on by default on CPU, where compilation would need a C++ compiler."""
    runner: Literal["auto", "v1", "v2"] = "auto"
    """vLLM's model runner; by default V2 on a GPU, V1 on CPU."""
    cpu_kv_cache_gib: int = Field(default=2, gt=0)
    """GiB of KV cache where the engine runs on CPU."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's `AsyncEngineArgs`; in the environment a JSON object."""
    mask_processes: int = Field(default_factory=default_processes, gt=0, le=MOST_PROCESSES)
    """Processes that fill masks side by side, 62 at most; by default the machine's cores less four, 1 to 16."""
    engine_cores: int | None = Field(default=None, ge=0)
    """Processor cores, with their hyperthreads, that nothing else of this server uses than the engine's threads; by default one for each
    GPU that the engine runs on, where there are eight for each; 0 keeps none."""
    validate_instances: int = Field(
        default_factory=lambda: max(1, min(_MOST_VALIDATE_INSTANCES, len(available()) // 2)), gt=0
    )
    """Processes of the `validate` model; by default half the machine's cores, 1 to 8."""
    relay_instances: int = Field(default_factory=lambda: max(1, min(_MOST_RELAYS, len(available()) // 4)), gt=0)
    """Processes of the `guided_relay` model, which send what `generate` answers; by default one for 4 of the machine's cores, 1 to 4."""
    sandbox_workers: int = Field(default_factory=lambda: max(2, min(8, len(available()) // 2)), gt=0)
    """Constraints compiled at once, by default half the machine's cores, 2 to 8; as many more, at least four, that take longer than
    0.1 s. Each may take `limits.compile_mib`."""
    compile_cache_entries: int = Field(default=4096, gt=0)
    """Compiled constraints that each process of a model keeps."""
    compile_cache_mib: int = Field(default=256, gt=0)
    """MiB that they may take in each process."""
    response_cache_mib: int = Field(default=0, ge=0)
    """MiB of Triton's response cache, for `validate`; 0 is none."""

    @field_validator("engine_args")
    @classmethod
    def _leave_masking_alone(cls, engine_args: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(engine_args.keys() & _RESERVED_ENGINE_ARGS):
            raise ValueError(f"{', '.join(taken)} would break masking and cannot be set")
        if taken := sorted(engine_args.keys() & _UNSAFE_ENGINE_ARGS):
            raise ValueError(f"{', '.join(taken)} would have a client's tensors deserialised and cannot be set")
        if engine_args.get("enable_lora"):
            raise ValueError(_NO_LORA)
        if own := sorted(engine_args.keys() & {name for section in SECTIONS.values() for name in section.model_fields}):
            raise ValueError(f"{', '.join(own)} cannot be set here: use the setting of that name")
        return engine_args


class LoggingSection(Section):
    """The log of our models' processes; Triton's and vLLM's own lines keep their form."""

    log_format: Literal["text", "json"] = "text"
    """Lines for people, or a JSON object a line."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least severity that is logged."""
    log_content: bool = False
    """Log each request's prompt, constraint and output. Unless asked for here, the log has none of them."""


class ProvenanceSection(Section):
    """The record of what was generated."""

    provenance_log: ProjectPath | None = None
    """A file to which the provenance of each finished request is appended, a JSON line each."""
    provenance_log_mib: int = Field(default=64, gt=0)
    """MiB after which the log goes on in a new file."""
    provenance_log_files: int = Field(default=16, ge=0)
    """Files before the current one that are kept."""
    provenance_log_fsync: Literal["always", "interval", "never"] = "interval"
    """When a line is on the disk: before the request is answered, a second later, or as the kernel likes."""
    provenance_log_content: bool = False
    """Write prompt, constraint and output into that log too, not digests alone."""
    digest_cache: ProjectPath = PROJECT / ".ananke" / "run" / "digests.json"
    """Where the digests of the model's files are kept between starts."""


class SecuritySection(Section):
    """Who may call, what is closed, what is encrypted, and the key that signs."""

    api_key_file: ProjectPath | None = None
    """Names and hashes of the API keys that are admitted, a line each; without it no key is checked. `make api-key NAME=...` makes a
    key. The file is read again when it changes."""
    closed_endpoints: list[Endpoint] = Field(default=["model-repository", "shared-memory", "trace", "logging"])
    """Endpoints of Triton's that answer only a caller who sends `management_key`: those named, or `metadata`, `model-config`,
    `statistics`."""
    management_key: SecretStr | None = None
    """What opens them, 32 characters or more; by default a random one for each start, which nobody is told. It is on Triton's command
    line, where users of the same machine can see it."""
    tls_certificate_file: ProjectPath | None = None
    """The server's certificate with its chain, in PEM: gRPC is then encrypted, and HTTP bound to 127.0.0.1."""
    tls_key_file: ProjectPath | None = None
    """The private key of that certificate, in PEM, not encrypted."""
    tls_client_ca_file: ProjectPath | None = None
    """Authorities, in PEM, one of which a client's certificate must come from (mutual TLS); without it clients need none."""
    thread_stack_mib: int = Field(default=8, ge=8, le=4096)
    """MiB of address space for the stack of each of Triton's threads. Triton 2.51 copies an HTTP body there, so that one of 8 MB ends a
    server with 8; where strangers reach HTTP, 1024."""
    max_prompt_bytes: int = Field(default=4 << 20, gt=0)
    """UTF-8 bytes of a request's `text_input`."""
    signing_key_file: ProjectPath | None = None
    """An Ed25519 private key in PEM that signs provenance; without one it is unsigned. `make key` makes one."""
    signing_key: SecretStr | None = None
    """The key itself, in place of a file; a line's end may be written as `\\n`. Better kept in the environment than in this file."""

    @field_validator("closed_endpoints")
    @classmethod
    def _once_each(cls, closed: list[Endpoint]) -> list[Endpoint]:
        return list(dict.fromkeys(closed))

    @field_validator("management_key")
    @classmethod
    def _hard_to_guess(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not re.fullmatch(r"[A-Za-z0-9_-]{32,256}", key.get_secret_value()):
            raise ValueError("it should be 32 to 256 letters, digits, - and _")
        return key


class MonitoringSection(Section):
    """What tells how the server does."""

    metrics_port: Port = 8002
    """Prometheus metrics are served there, at `/metrics`."""
    metrics_host: str | None = None
    """The address that this port is bound to; by default `host`."""
    otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://\S+$")
    """The URL of an OpenTelemetry collector that gets a trace of each request; OpenTelemetry's own variables have precedence."""


SECTIONS: dict[str, type[Section]] = {
    "service": ServiceSection,
    "model": ModelSection,
    "gpu": GpuSection,
    "container": ContainerSection,
    "generation": GenerationSection,
    "constraints": ConstraintsSection,
    "performance": PerformanceSection,
    "logging": LoggingSection,
    "provenance": ProvenanceSection,
    "security": SecuritySection,
    "monitoring": MonitoringSection,
}
"""The sections by their names in config.yaml, in its order."""
