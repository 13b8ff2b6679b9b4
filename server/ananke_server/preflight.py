"""Preflight: what would end a server's start after a minute, found before it, each with one line that says what to do."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from ananke_server.api_keys import KeyFile
from ananke_server.installed import engine_arguments, load_formats, on_cpu
from ananke_server.launch import LaunchError, resolve_model
from ananke_server.memory import CPU_OVERHEAD, GIB, VISIBLE_GPUS_VARIABLE, Need, free_gpu_memory, free_memory
from ananke_server.model_files import require_whole
from ananke_server.protection import require_certificates
from ananke_server.settings import Settings
from ananke_server.settings.effective import unknown_variables
from ananke_server.settings.nearest import no_such

CONFIG = "config.json"
_HUB_SECONDS = 10.0
_NEEDS_AS_MUCH = frozenset(
    {
        *("async_scheduling", "attention_backend", "block_size", "compilation_config", "cudagraph_capture_sizes", "disable_cascade_attn"),
        *("disable_custom_all_reduce", "disable_log_stats", "distributed_executor_backend", "enable_chunked_prefill"),
        *("enable_prefix_caching", "generation_config", "max_cudagraph_capture_size", "max_num_batched_tokens", "scheduling_policy"),
        *("seed", "skip_tokenizer_init", "structured_outputs_config", "tokenizer", "tokenizer_mode", "tokenizer_revision"),
    }
)
"""Arguments of vLLM with which a model needs no less memory than is counted here. Others can quantise or offload."""


def require_startable(settings: Settings) -> None:
    """Raises:
    LaunchError: vLLM has no such argument or loader, the model is missing, broken or unfit, a key or a certificate cannot be used, or
        there is too little memory.
    """
    from ananke_server.provenance.signing import load_signer

    require_known_arguments(settings)
    folder = model_folder(settings)
    config = read_config(folder)
    require_context(settings, config)
    require_safetensors(settings, folder)
    if Path(resolve_model(settings.model)).is_dir():  # of the hub's cache files may still be missing, and vLLM fetches them
        require_whole(folder, settings)
    try:
        need = Need.of(settings, folder, config, on_cpu=on_cpu())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise LaunchError(f"the model's weights cannot be read ({fault}): copy the model again") from None
    require_memory(settings, need)
    try:
        load_signer(settings)
        require_certificates(settings)
        if settings.api_key_file is not None:
            KeyFile(settings.api_key_file)
    except ValueError as fault:
        raise LaunchError(str(fault)) from None


def require_known_variables() -> list[str]:
    """The variables ``ANANKE_...`` of the environment that nothing reads.

    Raises:
        LaunchError: one is like a setting's, and what it was meant to set, API keys perhaps, would silently be left out.
    """
    unknown = dict(unknown_variables())
    if meant := [f"{variable} is no setting: did you mean {nearest}?" for variable, nearest in unknown.items() if nearest]:
        raise LaunchError(" ".join(meant))
    return list(unknown)


def require_known_arguments(settings: Settings) -> None:
    """Raises:
    LaunchError: ``engine_args`` or ``load_format`` has a name that vLLM does not know, where its source tells those it knows.
    """
    for setting, what, asked, known in (
        ("engine_args", "argument of vLLM's engine", settings.engine_args.keys(), engine_arguments()),
        ("load_format", "loader of vLLM's", {settings.load_format}, load_formats()),
    ):
        if known and (unknown := sorted(asked - known)):
            raise LaunchError(f"{setting}: {no_such(what, unknown[0], sorted(known))}")


def model_folder(settings: Settings) -> Path:
    """Where the model's configuration lies: its folder, or one of the hub's cache, into which it is brought where it is not yet.

    Raises:
        LaunchError: there is no such model, or none that can be had.
    """
    model = resolve_model(settings.model)
    if Path(model).is_dir():
        if not (Path(model) / CONFIG).is_file():
            raise LaunchError(f"the model folder {model} has no {CONFIG}: name one in Hugging Face's layout with ANANKE_MODEL")
        return Path(model)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    other = "name another with ANANKE_MODEL (MODEL=... of make)"
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # it tells of every try
    try:
        return Path(hf_hub_download(model, CONFIG, revision=settings.revision, etag_timeout=_HUB_SECONDS)).parent
    except HFValidationError:
        raise LaunchError(f"the model {model} is neither a folder nor a name on the hub: {other}") from None
    except RevisionNotFoundError:
        raise LaunchError(f"the model {model} has no revision {settings.revision} on the hub: name another with ANANKE_REVISION") from None
    except RepositoryNotFoundError:
        raise LaunchError(f"there is no model {model} on the hub, or it needs HF_TOKEN: {other}") from None
    except LocalEntryNotFoundError:
        raise LaunchError(f"the model {model} is no folder, not in the hub's cache, and the hub cannot be reached: {other}") from None
    except Exception as fault:  # of which the hub's client and its transports have many
        said = " ".join(str(fault).split())[:200] or type(fault).__name__
        raise LaunchError(f"the model {model} is no folder, and the hub does not give it ({said}): {other}") from None


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a model's text part.

    Raises:
        LaunchError: it is not JSON.
    """
    try:
        config: Any = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as fault:
        raise LaunchError(f"{folder / CONFIG} cannot be read ({fault}): copy the model again") from None
    if not isinstance(config, dict):
        raise LaunchError(f"{folder / CONFIG} is no JSON object: copy the model again")
    return {**config, **(config.get("text_config") or {})}


def require_context(settings: Settings, config: dict[str, Any]) -> None:
    """Raises:
    LaunchError: ``max_model_len`` is more than the model has, where its configuration says so plainly.
    """
    longest, asked = config.get("max_position_embeddings"), settings.max_model_len
    scaled = (config.get("rope_scaling") or {}).get("rope_type", "default") != "default"
    if isinstance(longest, int) and asked is not None and asked > longest and not scaled:
        raise LaunchError(f"max_model_len is {asked}, but the model has {longest}: set ANANKE_MAX_MODEL_LEN={longest} or less")


def require_safetensors(settings: Settings, folder: Path) -> None:
    """Raises:
    LaunchError: the weights are there as pickles alone, which are not read.
    """
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if settings.load_format == "safetensors" and pickles and not any(folder.glob("*.safetensors")):
        raise LaunchError(f"the weights in {folder} are pickles ({pickles[0]}), which can run code: convert them to safetensors")


def require_memory(settings: Settings, need: Need) -> None:
    """Raises:
    LaunchError: what is free is less than the model needs; where that cannot be known, nothing.
    """
    if need.on_cpu:
        free = free_memory()
        if need.total > free:
            cure = "set a smaller ANANKE_CPU_KV_CACHE_GIB or model, or free memory"
            raise LaunchError(f"too little memory: {need} are needed and {free / GIB:.1f} GiB are free; {cure}")
        return
    _require_gpu_memory(settings, need)
    _require_memory_to_sleep(settings, need)


def _require_gpu_memory(settings: Settings, need: Need) -> None:
    gpus = free_gpu_memory()
    if gpus is None:
        return
    count, visible = settings.tensor_parallel_size * settings.pipeline_parallel_size, os.environ.get(VISIBLE_GPUS_VARIABLE)
    if len(gpus) < count:
        there = f"there are {len(gpus)} GPUs" if visible is None else f"{VISIBLE_GPUS_VARIABLE}={visible} lets {len(gpus)} GPUs be seen"
        cure = f"set ANANKE_TENSOR_PARALLEL_SIZE={len(gpus)}" if gpus else "name others by number or UUID (nvidia-smi -L)"
        asked = "tensor_parallel_size" if settings.pipeline_parallel_size == 1 else "tensor_parallel_size times pipeline_parallel_size"
        raise LaunchError(f"{asked} is {count}, but {there}: {cure}")
    for index, gpu in enumerate(gpus[:count]):
        share = settings.gpu_memory_utilization
        budget = gpu.total * share
        asked = f"too little memory on GPU {index}: {budget / GIB:.1f} GiB ({share:g} of all) are"
        if budget > gpu.free:
            fitting = int(gpu.free / gpu.total * 100) / 100
            cure = f"end what uses it, or set ANANKE_GPU_MEMORY_UTILIZATION={fitting:g}"
            raise LaunchError(f"{asked} asked for and {gpu.free / GIB:.1f} are free; {cure}")
        if need.total > budget and settings.engine_args.keys() <= _NEEDS_AS_MUCH:
            cure = "set a smaller ANANKE_MAX_MODEL_LEN or model, or a larger ANANKE_TENSOR_PARALLEL_SIZE or ANANKE_GPU_MEMORY_UTILIZATION"
            raise LaunchError(f"{asked} less than the {need} that are needed; {cure}")


def _require_memory_to_sleep(settings: Settings, need: Need) -> None:
    """At level 1 every GPU's weights move into the host's memory, where it would be the kernel that ends the server."""
    if settings.idle_timeout is None or settings.sleep_level != 1 or not settings.engine_args.keys() <= _NEEDS_AS_MUCH:
        return
    weights, free = need.weights * settings.tensor_parallel_size * settings.pipeline_parallel_size, free_memory()
    if weights + CPU_OVERHEAD > free:
        needed = f"{(weights + CPU_OVERHEAD) / GIB:.1f} GiB ({weights / GIB:.1f} of weights, {CPU_OVERHEAD / GIB:.1f} for the processes)"
        cure = "set ANANKE_SLEEP_LEVEL=2, which reads the weights again, or ANANKE_IDLE_TIMEOUT=none"
        raise LaunchError(f"too little memory for an engine that sleeps: {needed} are needed and {free / GIB:.1f} are free; {cure}")
