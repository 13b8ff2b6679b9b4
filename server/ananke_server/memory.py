"""Memory: what a served model needs at least, and what is free."""

from __future__ import annotations

import json
import math
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ananke_server.settings import Settings

GIB = 1 << 30
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
        """What a model needs: on CPU the whole KV cache that the settings ask for, on a GPU that of one request of full length."""
        size = _BYTES.get(settings.dtype, 4 if on_cpu else 2)  # left to itself vLLM takes 16 bits on a GPU, of float32 weights too
        weights = weight_bytes(folder, size)
        if on_cpu:
            kv_cache = int(os.environ.get("VLLM_CPU_KVCACHE_SPACE") or settings.cpu_kv_cache_gib) * GIB
            return cls(weights, kv_cache, CPU_OVERHEAD, on_cpu)
        tokens = settings.max_model_len or config.get("max_position_embeddings") or 0
        ranks = settings.tensor_parallel_size
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


def free_memory() -> int:
    """Bytes that new processes may take: of the machine, or of the control group where that is less."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # "max", or no such file
        limit = int((group / "memory.max").read_text())
        # The page cache within is given up before anything is killed.
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, limit - int((group / "memory.current").read_text()) + int(kept.get("inactive_file", 0)))
    return free


@dataclass(frozen=True)
class Gpu:
    """A GPU's memory in bytes."""

    total: int
    free: int


def free_gpu_memory() -> list[Gpu]:
    """The GPUs that nvidia-smi knows; none where it does not answer."""
    command = ["nvidia-smi", "--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        gpus = [Gpu(*(int(mib) << 20 for mib in line.split(","))) for line in answer.splitlines()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    numbers = [int(number) for number in visible.split(",") if number.strip().isdigit()]
    return [gpus[number] for number in numbers if number < len(gpus)] if numbers else gpus


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
