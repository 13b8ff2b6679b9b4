"""What a sleeping engine leaves free, and how long the first token takes that wakes it.

    python scripts/sleep_times.py --output benchmarks/sleep-times.json
    python scripts/sleep_times.py --tokenizer DIR --levels 1 2 0

A server for each level of sleep (on CPU only 0, where the engine's processes end), real through Triton. A round waits until the
engine says that it is asleep, reads the memory, and sends one constrained request; ``first token`` is that request's, from the call
on. With ``--tokenizer`` the model has a 7B shape and random weights, written to the disk before, which level 2 reads again: 15 GB,
mostly from the system's cache of files. Beside it the times of the first token when the engine is awake, and of a cold start of the
server. A sleep from which the engine had to be started again ends the program: it says nothing of that level.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from typing import Any, Final

from bench_server import MIB, resident_mib, serving
from bench_support import percentiles, print_table, write_json

from ananke_client import AnankeInferenceClient, ConstraintSpec, GenerationConfig
from ananke_server.engine.start import device_name, on_cpu
from ananke_server.launch import DEFAULT_MODEL, PROJECT, TritonServer

IDLE: Final = 2.0
"""Seconds without a request after which the engine goes to sleep here."""
PATIENCE: Final = 120.0
"""Seconds that falling asleep, and a request that wakes, may take."""
SETTLED: Final = 4
"""Readings, a second apart, in which memory does not shrink any more."""
DIGITS: Final = ConstraintSpec.regex("([0-9]{2} ){10}")
CONFIG: Final = GenerationConfig(max_tokens=40, temperature=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", nargs="+", type=int, choices=(0, 1, 2), default=[0] if on_cpu() else [1, 2, 0])
    parser.add_argument("--rounds", type=int, default=3, help="sleeps of each level")
    parser.add_argument("--tokenizer", help="a folder; the model then has a 7B shape and random weights")
    parser.add_argument("--quick", action="store_true", help="a tiny shape, to try this program on CPU")
    parser.add_argument("--output", help="a JSON file")
    arguments = parser.parse_args()

    results: list[dict[str, Any]] = []
    model = str(DEFAULT_MODEL) if arguments.tokenizer is None else shape_with_weights(arguments.tokenizer, tiny=arguments.quick)
    about = {"device": device_name(), "model": "a 7B shape, random weights" if arguments.tokenizer else DEFAULT_MODEL.name}
    for level in arguments.levels:
        results.append(measured(level, arguments.rounds, model))
        if arguments.output:
            write_json(arguments.output, about | {"idle_timeout_s": IDLE, "levels": results})
    header = ["level", "cold start s", "memory awake MiB", "asleep MiB", "first token awake ms", "waking, mean ms", "max ms"]
    print_table(header, [_row(result) for result in results])


def measured(level: int, rounds: int, model: str) -> dict[str, Any]:
    """The figures of one level: a server is started for it, and ended."""
    environment = {
        "ANANKE_MODEL": model,
        "ANANKE_MAX_MODEL_LEN": "1024",
        "ANANKE_IDLE_TIMEOUT": str(IDLE),
        "ANANKE_SLEEP_LEVEL": str(level),
    }
    begun = time.monotonic()
    with (
        serving([], f"sleep-times-{level}", environment=environment) as server,
        AnankeInferenceClient(url=server.grpc_url, timeout=PATIENCE) as client,
    ):
        first_token(client)
        cold = time.monotonic() - begun
        awake = [first_token(client) for _ in range(rounds)]
        used, asleep, waking, texts = memory_mib(server), [], [], set()
        for number in range(rounds):
            wait_until_asleep(client)
            asleep.append(settled_memory_mib(server))
            seconds, text = first_token(client)
            require_no_restart(client, level)
            waking.append(seconds)
            texts.add(text)
            print(f"level {level}, round {number + 1}: {asleep[-1]:,.0f} MiB asleep, first token after {seconds:.2f} s", flush=True)
    return {
        "level": level,
        "cold_start_s": round(cold, 1),
        "memory": "of the GPU" if not on_cpu() else "resident, of all processes",
        "memory_awake_mib": round(used),
        "memory_asleep_mib": [round(mib) for mib in asleep],
        "first_token_awake_ms": percentiles([seconds for seconds, _ in awake], scale=1000),
        "first_token_waking_ms": percentiles(waking, scale=1000),
        "same_text": texts == {text for _, text in awake},
    }


def shape_with_weights(tokenizer: str, *, tiny: bool) -> str:
    """The folder of a shape with random weights, made in a process of its own: what is on the GPU afterwards is the server's."""
    command = [sys.executable, str(PROJECT / "scripts" / "model_shape.py"), tokenizer, "--weights", *(["--tiny"] if tiny else [])]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]


def first_token(client: AnankeInferenceClient) -> tuple[float, str]:
    """Seconds from the call to the first text, and the whole text."""
    begun = time.monotonic()
    with client.generate_stream("Numbers: ", DIGITS, CONFIG) as stream:
        pieces = [next(stream)]
        seconds = time.monotonic() - begun
        pieces += stream
    return seconds, "".join(pieces)


def wait_until_asleep(client: AnankeInferenceClient) -> None:
    """Return once the engine says that it is asleep."""
    end = time.monotonic() + PATIENCE
    while (status := client.health_check().status) is None or status.state != "asleep":
        if time.monotonic() > end:
            raise RuntimeError(f"the engine does not go to sleep: {status}")
        time.sleep(0.2)


def require_no_restart(client: AnankeInferenceClient, level: int) -> None:
    """Raises:
    RuntimeError: the engine was started again, though it was to wake.
    """
    status = client.health_check().status
    if level and (status is None or status.restarts):
        raise RuntimeError(f"the engine did not wake from level {level}, but was started again: see the server's log")


def settled_memory_mib(server: TritonServer) -> float:
    """MiB in use once that shrinks no more."""
    used, end = [memory_mib(server)], time.monotonic() + PATIENCE
    while time.monotonic() < end and not (len(used) > SETTLED and min(used[:-SETTLED]) < min(used[-SETTLED:]) * 1.01):
        time.sleep(1.0)
        used.append(memory_mib(server))
    return used[-1]


def memory_mib(server: TritonServer) -> float:
    """MiB in use: of the first GPU, by everything on it, or of the server's processes on CPU."""
    if on_cpu():
        return resident_mib(server.session.members())
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={gpu}"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        return float(subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout)
    import torch

    free, total = torch.cuda.mem_get_info(0)
    return float(total - free) / MIB


def _row(result: dict[str, Any]) -> list[object]:
    awake, waking = result["first_token_awake_ms"], result["first_token_waking_ms"]
    memory = result["memory_awake_mib"], max(result["memory_asleep_mib"])
    return [str(result["level"]), result["cold_start_s"], *memory, awake["mean"], waking["mean"], waking["max"]]


if __name__ == "__main__":
    main()
