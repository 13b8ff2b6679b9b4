"""Memory: what a served model needs at least, and what is free."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ananke_server.control_groups import memory_left
from ananke_server.launch import LaunchError
from ananke_server.settings import Settings

GIB = 1 << 30
CPU_KV_CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
VISIBLE_GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"
# Measured: 1,987 MiB beside weights and KV cache with one mask process and one instance of validate, idle (2 cores, vLLM 0.32.0).
CPU_OVERHEAD = 2 * GIB
_DTYPE_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8}
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Need:
    """Bytes that one device must have at least."""

    weights: int
    kv_cache: int
    overhead: int
    on_cpu: bool

    @classmethod
    def of(cls, settings: Settings, folder: Path, config: dict[str, Any], *, on_cpu: bool) -> Need:
        """What a model needs: on CPU the whole KV cache that the settings ask for, on a GPU that of one request of full length.

        Raises:
            LaunchError: as ``cpu_kv_cache_gib``.
            OSError, ValueError, KeyError, TypeError, AttributeError: the weights cannot be read, or are none.
        """
        size = _BYTES.get(settings.dtype, 4 if on_cpu else 2)  # left to itself vLLM takes 16 bits on a GPU, of float32 weights too
        weights = weight_bytes(folder, size)
        if on_cpu:
            kv_cache = cpu_kv_cache_gib(settings) * GIB
            return cls(weights, kv_cache, CPU_OVERHEAD, on_cpu)
        tokens = settings.max_model_len or config.get("max_position_embeddings") or 0
        ranks = settings.tensor_parallel_size * settings.pipeline_parallel_size
        return cls(weights // ranks, kv_bytes_a_token(config, size) * tokens // ranks, 0, on_cpu)

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.overhead

    def __str__(self) -> str:
        parts = [f"{self.weights / GIB:.1f} of weights", f"{self.kv_cache / GIB:.1f} of KV cache"]
        parts += [f"{self.overhead / GIB:.1f} for the processes"] if self.overhead else []
        return f"{self.total / GIB:.1f} GiB ({', '.join(parts)})"


def weight_bytes(folder: Path, size: int) -> int:
    """Bytes of a folder's weights, with floats loaded in ``size`` bytes each; 0 where there are none yet.

    Raises:
        ValueError: a file of them is broken.
    """
    files = list(folder.glob("model*.safetensors")) or list(folder.glob("*.safetensors"))  # some folders have them twice
    if not files:
        return sum(path.stat().st_size for path in folder.glob("*.bin"))
    total = 0
    for path in files:
        for name, tensor in safetensors_header(path)[0].items():
            if name != "__metadata__":
                bits = size * 8 if tensor["dtype"] in _FLOATS else _DTYPE_BITS.get(tensor["dtype"], 8)
                total += math.prod(tensor["shape"]) * bits // 8
    return total


def kv_bytes_a_token(config: dict[str, Any], size: int) -> int:
    """Bytes of KV cache that one token takes in a plain transformer of this configuration; 0 where it does not say."""
    layers, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
    if not layers or not heads or config.get("kv_lora_rank") or config.get("sliding_window"):
        return 0  # other kinds of attention take less, each its own way
    width = config.get("head_dim") or config.get("hidden_size", 0) // heads
    return int(2 * layers * (config.get("num_key_value_heads") or heads) * width * size)


def cpu_kv_cache_gib(settings: Settings) -> int:
    """GiB of KV cache on CPU: what vLLM's own variable says, else the setting.

    Raises:
        LaunchError: the variable is no whole number, which vLLM would end with.
    """
    given = os.environ.get(CPU_KV_CACHE_VARIABLE)
    if not given:
        return settings.cpu_kv_cache_gib
    if not given.isdecimal() or int(given) == 0:
        raise LaunchError(f"{CPU_KV_CACHE_VARIABLE}={given[:60]}: vLLM takes whole GiB: unset it, and set ANANKE_CPU_KV_CACHE_GIB")
    return int(given)


def free_memory() -> int:
    """Bytes that new processes may take: of the machine, or of a control group where that is less."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    left = memory_left()
    return free if left is None else min(free, left)


@dataclass(frozen=True)
class Gpu:
    """A GPU's memory in bytes."""

    total: int
    free: int


def free_gpu_memory() -> list[Gpu] | None:
    """The GPUs that CUDA will see, in its order; None where that is not known: nvidia-smi does not answer, or a part of a GPU is named."""
    command = ["nvidia-smi", "--query-gpu=uuid,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        rows = [line.split(",") for line in answer.splitlines()]
        gpus = {uuid.strip(): Gpu(int(total) << 20, int(free) << 20) for uuid, total, free in rows}
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    visible = os.environ.get(VISIBLE_GPUS_VARIABLE)
    if not gpus or "MIG" in (visible or ""):
        return None
    return list(gpus.values()) if visible is None else list(_visible(visible, gpus))


def _visible(names: str, gpus: Mapping[str, Gpu]) -> Iterator[Gpu]:
    """As CUDA reads them: numbers, or the beginnings of UUIDs; the first that names no GPU ends the list."""
    for name in map(str.strip, names.split(",")):
        if name.isdecimal():
            found = list(gpus.values())[int(name) :][:1]
        else:
            found = [gpu for uuid, gpu in gpus.items() if name and uuid.startswith(name)]
        if len(found) != 1:
            return
        yield found[0]


def safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """The tensors of a safetensors file by name, and the byte at which their data begins: eight bytes of length, then JSON.

    Raises:
        ValueError: the file is none, or ends within.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length < path.stat().st_size else b""
    try:
        header: dict[str, Any] = json.loads(text)
    except ValueError:
        raise ValueError(f"{path} is no whole safetensors file") from None
    return header, 8 + length
