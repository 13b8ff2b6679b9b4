"""Before a start: what cannot work ends it with one line and an exit code, and memory is counted right."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors import safe_open

from ananke_server.launch import DEFAULT_MODEL, PROJECT, LaunchError
from ananke_server.memory import GIB, Need, free_gpu_memory, free_memory, kv_bytes_a_token, weight_bytes
from ananke_server.ports import free_ports
from ananke_server.preflight import model_folder, read_config, require_context, require_memory, require_safetensors, require_startable
from ananke_server.settings import Settings
from ananke_server.settings.effective import OTHER_VARIABLES

# Of Qwen2.5-7B-Instruct: 28 layers, 4 heads of 128 for keys and values.
QWEN_7B = {"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 3584}


def serve(**environment: str) -> subprocess.CompletedProcess[str]:
    """``scripts/serve.py foreground`` on free ports, which must end by itself."""
    if (PROJECT / ".ananke" / "run" / "server.json").exists():
        pytest.skip("a server of this tree runs (make stop)")
    ports = dict(zip(("ANANKE_HTTP_PORT", "ANANKE_GRPC_PORT", "ANANKE_METRICS_PORT"), map(str, free_ports(3)), strict=True))
    command = [sys.executable, PROJECT / "scripts" / "serve.py", "foreground"]
    return subprocess.run(command, env=os.environ | ports | environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"ANANKE_MAX_PENDING": "many"}, "ANANKE_MAX_PENDING=many: it should be a valid integer"),
        ({"ANANKE_CONFIG": "/nowhere.yaml"}, "/nowhere.yaml: cannot be read: No such file or directory; $ANANKE_CONFIG names another"),
        ({"ANANKE_MODEL": "./nowhere"}, "the model folder ./nowhere does not exist: name another with ANANKE_MODEL"),
        (
            {"ANANKE_MODEL": "no/such-model", "HF_HUB_OFFLINE": "1"},
            "the model no/such-model is no folder, not in the hub's cache, and the hub cannot be reached: name another with",
        ),
        ({"ANANKE_API_KEY_FILE": "/nowhere"}, "ANANKE_API_KEY_FILE, /nowhere cannot be read: No such file or directory; `make api-key"),
        ({"ANANKE_TLS_CERTIFICATE_FILE": "/a", "ANANKE_TLS_KEY_FILE": "/b"}, "tls_certificate_file, /a, cannot be read: No such file"),
        ({"ANANKE_TLS_KEY_FILE": "/b"}, "tls_certificate_file and tls_key_file belong together: set both, or neither"),
        ({"ANANKE_CPU_KV_CACHE_GIB": "4000", "VLLM_CPU_KVCACHE_SPACE": ""}, "too little memory: "),
        ({"ANANKE_API_KEYS_FILE": "/a"}, "ANANKE_API_KEYS_FILE is no setting: did you mean ANANKE_API_KEY_FILE?"),
        ({"ANANKE_DTYPE": "float61"}, "ANANKE_DTYPE=float61: it should be 'auto', 'half', 'float16', 'bfloat16', 'float' or 'float32'"),
        ({"ANANKE_LOAD_FORMAT": "safetensor"}, "load_format: there is no loader of vLLM's 'safetensor': did you mean 'safetensors'?"),
        (
            {"ANANKE_ENGINE_ARGS": '{"block_sise": 16}'},
            "engine_args: there is no argument of vLLM's engine 'block_sise': did you mean 'block_size'?",
        ),
        ({"ANANKE_ENGINE_ARGS": '{"!": 1}'}, "engine_args: there is no argument of vLLM's engine '!': none is like it"),
        ({"VLLM_CPU_KVCACHE_SPACE": "0.5"}, "VLLM_CPU_KVCACHE_SPACE=0.5: vLLM takes whole GiB: unset it, and set ANANKE_CPU_KV"),
    ],
)
def test_a_start_that_cannot_work_ends_with_one_line(environment: dict[str, str], line: str) -> None:
    ended = serve(**environment)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"serve: {line}")
    assert ended.stderr.count("\n") == 1


def test_a_variable_that_is_nothings_is_told_and_those_of_clients_and_tools_are_not(tmp_path: Path) -> None:
    others = {"ANANKE_HTTP_URL": "http://x", "ANANKE_API_KEY": "x", "ANANKE_API_KEY_PATH": "/x", "ANANKE_RUN_DIR": str(tmp_path)}
    ended = serve(ANANKE_SOMETHING="x", ANANKE_MODEL="./nowhere", **others)
    told, fault = ended.stderr.splitlines()
    assert told == "serve: note: ANANKE_SOMETHING is no setting, and nothing reads it"
    assert fault.startswith("serve: the model folder ./nowhere")


def test_every_variable_that_our_programs_read_is_known() -> None:
    files = [PROJECT / "Dockerfile.triton", PROJECT / "Makefile"]
    for folder in ("client", "server", "scripts", "deploy"):
        files += [path for path in (PROJECT / folder).rglob("*") if path.suffix in (".py", ".sh", ".yaml", ".tpl")]
    named = {name for file in files if file.is_file() for name in re.findall(r"\bANANKE_[A-Z][A-Z_]*[A-Z]\b", file.read_text())}
    known = {f"ANANKE_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    assert {name.partition("__")[0] for name in named} - known == set()
    assert OTHER_VARIABLES - named <= {"ANANKE_COMPLETE"}, "which typer makes up"


def test_a_port_in_use_ends_it_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = serve(ANANKE_GRPC_PORT=str(port))
    assert ended.returncode == 1
    cure = "stop what listens there (`make stop`), or set another of http_port, grpc_port and metrics_port"
    assert ended.stderr == f"serve: cannot listen on 127.0.0.1:{port}: Address already in use; {cure}\n"


class TestModel:
    def test_a_folder_without_a_configuration_and_a_name_that_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(LaunchError, match=r"has no config\.json"):
            model_folder(Settings(model=str(tmp_path)))
        with pytest.raises(LaunchError, match="neither a folder nor a name on the hub"):
            model_folder(Settings(model="no name of the hub"))

    def test_a_broken_one_is_told_from_a_whole_one(self, tmp_path: Path) -> None:
        require_startable(Settings(model=str(DEFAULT_MODEL), cpu_kv_cache_gib=1))
        for broken in ("config.json", "model.safetensors"):
            folder = tmp_path / broken
            folder.mkdir()
            for name in ("config.json", "model.safetensors"):
                shutil.copy(DEFAULT_MODEL / name, folder)
            os.truncate(folder / broken, 500)
            with pytest.raises(LaunchError, match=f"{broken}.*copy the model again"):
                require_startable(Settings(model=str(folder)))

    def test_pickles_are_not_read(self, tmp_path: Path) -> None:
        (tmp_path / "pytorch_model.bin").write_bytes(b"x")
        with pytest.raises(LaunchError, match=r"are pickles \(pytorch_model.bin\), which can run code: convert them to safetensors"):
            require_safetensors(Settings(model="m"), tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"x")
        require_safetensors(Settings(model="m"), tmp_path)

    def test_a_context_that_the_model_does_not_have(self) -> None:
        config = read_config(DEFAULT_MODEL)
        require_context(Settings(model="m", max_model_len=8192), config)
        require_context(Settings(model="m", max_model_len=8193), config | {"rope_scaling": {"rope_type": "yarn"}})
        with pytest.raises(LaunchError, match="max_model_len is 8193, but the model has 8192: set ANANKE_MAX_MODEL_LEN=8192 or less"):
            require_context(Settings(model="m", max_model_len=8193), config)


class TestMemory:
    def test_weights_are_what_the_file_has(self) -> None:
        with safe_open(DEFAULT_MODEL / "model.safetensors", "np") as file:
            parameters = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        assert weight_bytes(DEFAULT_MODEL, 4) == 4 * parameters
        assert weight_bytes(DEFAULT_MODEL, 2) == 2 * parameters

    def test_the_kv_cache_of_a_token(self) -> None:
        assert kv_bytes_a_token(QWEN_7B, 2) == 57_344
        assert kv_bytes_a_token({"num_hidden_layers": 28}, 2) == 0

    def test_what_is_free_is_at_most_what_the_machine_has_free(self) -> None:
        assert 0 < free_memory() <= psutil.virtual_memory().available * 1.1

    def test_on_cpu_weights_cache_and_processes_must_fit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
        settings = Settings(model=str(DEFAULT_MODEL))
        need = Need.of(settings, DEFAULT_MODEL, read_config(DEFAULT_MODEL), on_cpu=True)
        assert (need.weights, need.kv_cache) == (weight_bytes(DEFAULT_MODEL, 4), 2 * GIB)
        monkeypatch.setattr("ananke_server.preflight.free_memory", lambda: need.total)
        require_memory(settings, need)
        monkeypatch.setattr("ananke_server.preflight.free_memory", lambda: need.total - 1)
        with pytest.raises(LaunchError, match=r"4\.5 GiB \(0\.5 of weights, 2\.0 of KV cache, 2\.0 for the processes\) are needed"):
            require_memory(settings, need)

    @pytest.mark.parametrize(
        ("gpus", "settings", "line"),
        [
            ("40960, 40500", {"max_model_len": 8192}, None),
            ("40960, 30000", {}, r"GPU 0: 36.0 GiB \(0.9 of all\) are asked for and 29.3 are free; .*UTILIZATION=0.73"),
            ("16384, 16200", {"max_model_len": 8192}, r"14.4 GiB .* are less than the 14.6 GiB \(14.2 of weights, 0.4 of KV cache\)"),
            ("16384, 16200", {"max_model_len": 8192, "engine_args": {"quantization": "fp8"}}, None),
            ("16384, 16200; 16384, 16200", {"max_model_len": 8192, "tensor_parallel_size": 2}, None),
            ("40960, 40500", {"tensor_parallel_size": 2}, "there are 1 GPUs: set ANANKE_TENSOR_PARALLEL_SIZE=1"),
            ("40960, 40500", {"pipeline_parallel_size": 2}, "tensor_parallel_size times pipeline_parallel_size is 2, but there are 1 GPUs"),
            ("16384, 16200; 16384, 16200", {"max_model_len": 8192, "pipeline_parallel_size": 2}, None),
            ("40960, 40500; 40960, 10", {"tensor_parallel_size": 2}, "GPU 1: "),
        ],
    )
    def test_on_a_gpu_the_share_must_be_free_and_hold_the_model(
        self, gpus: str, settings: dict[str, Any], line: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install_gpus(gpus, tmp_path, monkeypatch)
        header = json.dumps({"w": {"dtype": "BF16", "shape": [7_615_616_512], "data_offsets": [0, 0]}}).encode()
        (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
        made = Settings(model="m", **settings)
        need = Need.of(made, tmp_path, {**QWEN_7B, "max_position_embeddings": 32768}, on_cpu=False)
        if line is None:
            require_memory(made, need)
        else:
            with pytest.raises(LaunchError, match=line):
                require_memory(made, need)

    @pytest.mark.parametrize(
        ("settings", "free", "fits"),
        [
            ({"idle_timeout": 60}, 17.1, True),
            ({"idle_timeout": 60}, 16.1, False),
            ({"idle_timeout": 60, "tensor_parallel_size": 2}, 16.1, False),
            ({"idle_timeout": 60, "sleep_level": 2}, 1, True),
            ({"idle_timeout": 60, "sleep_level": 0}, 1, True),
            ({"idle_timeout": 60, "engine_args": {"quantization": "fp8"}}, 1, True),
            ({}, 1, True),
        ],
    )
    def test_an_engine_that_sleeps_needs_its_weights_memory_on_the_host(
        self, settings: dict[str, Any], free: float, fits: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """15 GiB of weights, on all GPUs together, and 2 for the processes."""
        monkeypatch.setattr("ananke_server.preflight.free_gpu_memory", lambda: None)
        monkeypatch.setattr("ananke_server.preflight.free_memory", lambda: int(free * GIB))
        made = Settings(model="m", **settings)
        need = Need(15 * GIB // made.tensor_parallel_size, 0, 0, on_cpu=False)
        if fits:
            require_memory(made, need)
        else:
            line = r"17\.0 GiB \(15\.0 of weights, 2\.0 for the processes\) are needed and 16\.1 are free; set ANANKE_SLEEP_LEVEL=2"
            with pytest.raises(LaunchError, match=line):
                require_memory(made, need)

    @pytest.mark.parametrize(
        ("visible", "frees"),
        [
            (None, [1, 2, 3]),
            ("2,0", [3, 1]),
            ("GPU-c0ffee00-0000-0000-0000-000000000003", [3]),
            (" GPU-b, GPU-a", [2, 1]),
            ("GPU-a,7,1", [1]),
            ("GPU-d", []),
            ("GPU", []),
            ("", []),
            ("-1", []),
            ("MIG-a1b2", None),
        ],
    )
    def test_gpus_are_those_that_cuda_sees(
        self, visible: str | None, frees: list[int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install_gpus("9, 1; 9, 2; 9, 3", tmp_path, monkeypatch)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        gpus = free_gpu_memory()
        assert (None if gpus is None else [gpu.free >> 20 for gpu in gpus]) == frees

    def test_a_gpu_that_is_not_there_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        install_gpus("40960, 40500", tmp_path, monkeypatch)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-ffff")
        with pytest.raises(LaunchError, match="1, but CUDA_VISIBLE_DEVICES=GPU-ffff lets 0 GPUs be seen: name others"):
            require_memory(Settings(model="m"), Need(0, 0, 0, on_cpu=False))

    def test_without_nvidia_smi_nothing_is_known_of_gpus(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert free_gpu_memory() is None
        require_memory(Settings(model="m"), Need(1 << 60, 0, 0, on_cpu=False))


def install_gpus(gpus: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An nvidia-smi that tells of these GPUs, each by its MiB in all and free; their UUIDs begin with GPU-a, GPU-b, GPU-c."""
    rows = [f"GPU-{'abc'[n]}0ffee00-0000-0000-0000-00000000000{n + 1}, {gpu.strip()}" for n, gpu in enumerate(gpus.split(";"))]
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\ncat <<'GPUS'\n" + "\n".join(rows) + "\nGPUS\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
