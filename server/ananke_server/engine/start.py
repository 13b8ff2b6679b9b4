"""Starting vLLM: engine arguments from settings, with the runner and the processor that belong together."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from ananke_server import cores
from ananke_server.engine.figures import EngineFigures
from ananke_server.engine.making import made_in_thread
from ananke_server.engine.vllm_engine import VllmEngine
from ananke_server.masking.board import ADDRESS_VARIABLE, PARTS
from ananke_server.masking.crew import MaskCrew
from ananke_server.masking.tokenizer import TokenizerSource, served_source, served_tokenizer
from ananke_server.masking.worker import WorkerExtension
from ananke_server.memory import CPU_KV_CACHE_VARIABLE, cpu_kv_cache_gib
from ananke_server.settings import Settings

if TYPE_CHECKING:
    from llguidance import LLTokenizer

logger = logging.getLogger(__name__)

_PROCESSORS = {"v1": "ananke_server.masking.vllm_v1:LlguidanceV1", "v2": "ananke_server.masking.vllm_v2:LlguidanceV2"}


async def start_engine(settings: Settings, figures: EngineFigures | None = None) -> VllmEngine:
    """An engine that can generate, and tells its ``figures`` with each step. Takes tens of seconds, in which the event loop goes on.

    Where the awaiting task is cancelled, the processes that were started end before it does.

    Raises:
        ValueError: the settings ask for what masks are not made for.
        CrewDeadError: the mask processes ended at once.
    """
    runner = _prepare_environment(settings)
    config, source, tokenizer = await asyncio.to_thread(_configured, settings, runner)
    crew = MaskCrew.start(
        source,
        tokenizer,
        rows=config.scheduler_config.max_num_seqs,
        processes=settings.mask_processes,
        lexer_states=settings.limits.lexer_states,
        parts=max(PARTS, config.max_concurrent_batches + 1),
    )
    with ExitStack() as opened:
        opened.callback(crew.close)
        os.environ[ADDRESS_VARIABLE] = crew.address
        llm = await _vllm(config, figures or EngineFigures())
        opened.callback(llm.shutdown)
        await _use_kept_cores(llm, settings.engine_cores)
        await crew.wait_until_up()
        opened.pop_all()
    return VllmEngine(llm, crew, can_sleep=bool(config.model_config.enable_sleep_mode))


async def _use_kept_cores(llm: Any, asked: int | None) -> None:
    if kept := cores.kept():
        await llm.collective_rpc(WorkerExtension.ananke_use_kept_cores.__name__)
        logger.info("for the engine's threads alone, of all that this server runs: cores %s", ", ".join(map(str, sorted(kept))))
    elif asked:
        logger.warning("engine_cores is %s, but Triton was started without it: only scripts/serve.py keeps other processes off", asked)


def _configured(settings: Settings, runner: str) -> tuple[Any, TokenizerSource, LLTokenizer]:
    """vLLM's configuration, and the tokenizer of its model, as it is for the mask processes and loaded."""
    from vllm import AsyncEngineArgs

    config = AsyncEngineArgs(**engine_arguments(settings, runner)).create_engine_config()
    _refuse_other_batches(config.parallel_config)
    return config, served_source(config.model_config), served_tokenizer(config.model_config)


async def _vllm(config: Any, figures: EngineFigures) -> Any:
    """An ``AsyncLLM``."""
    from vllm.v1.engine.async_llm import AsyncLLM

    from ananke_server.engine.vllm_stats import stat_logger, take_beginnings_alone

    take_beginnings_alone()
    loggers: Any = [stat_logger(figures)]
    start = partial(AsyncLLM.from_vllm_config, config, stat_loggers=loggers, disable_log_stats=True)
    return await made_in_thread(start, AsyncLLM.shutdown)


def engine_arguments(settings: Settings, runner: str) -> dict[str, Any]:
    """The keyword arguments of vLLM's ``AsyncEngineArgs``."""
    eager = settings.enforce_eager
    return {
        "model": settings.model,
        "revision": settings.revision,
        "dtype": _dtype(settings),
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "pipeline_parallel_size": settings.pipeline_parallel_size,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "enforce_eager": on_cpu() if eager is None else eager,
        "load_format": settings.load_format,
        "logits_processors": [_PROCESSORS[runner]],
        "worker_extension_cls": f"{WorkerExtension.__module__}.{WorkerExtension.__qualname__}",
        "trust_remote_code": settings.trust_remote_code,
        "enable_sleep_mode": settings.idle_timeout is not None and settings.sleep_level > 0 and has_sleep(),
    } | settings.engine_args


def _refuse_other_batches(parallel: Any) -> None:
    """The board has the steps of one engine, whose logits rows are the same on all ranks of the last stage."""
    for name in ("data_parallel_size", "prefill_context_parallel_size"):
        if (size := getattr(parallel, name)) > 1:
            cure = "use tensor_parallel_size, pipeline_parallel_size, or replicas"
            raise ValueError(f"engine_args: {name} is {size}, but masks are made for 1; {cure}")


def _dtype(settings: Settings) -> str:
    # Few CPUs have bfloat16 arithmetic; on one without, float32 decoded three times as fast (2 cores, 16 requests).
    return "float32" if settings.dtype == "auto" and on_cpu() else settings.dtype


def on_cpu() -> bool:
    """Whether vLLM will run on the CPU."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def has_sleep() -> bool:
    """Whether vLLM can let go of the device's memory and stay."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_sleep_mode_available())


def device_name() -> str:
    """The name of the device that vLLM runs on."""
    from vllm.platforms import current_platform

    return "cpu" if on_cpu() else str(current_platform.get_device_name())


def _prepare_environment(settings: Settings) -> str:
    """Set what vLLM and its workers read from the environment; returns the model runner."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # At DEBUG vLLM tells more of requests than a log may have.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO" if settings.log_level == "DEBUG" else settings.log_level)
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    if on_cpu():
        os.environ[CPU_KV_CACHE_VARIABLE] = str(cpu_kv_cache_gib(settings))
    runner = settings.runner if settings.runner != "auto" else "v1" if on_cpu() else "v2"
    # Left to itself vLLM chooses by its build, and refuses a processor of the other runner.
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1" if runner == "v2" else "0"
    logger.info("vLLM's %s model runner", runner)
    return runner
