"""perf_analyzer on streams: its profile export read for messages, which it counts itself, and for tokens, which responses say."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_support import percentiles
from stream_clients import Stream
from stream_workloads import Request


def program() -> str | None:
    """perf_analyzer, where it is on PATH and runs: it needs a newer glibc than Debian 12 has."""
    found = shutil.which("perf_analyzer")
    if found is None or subprocess.run([found, "--version"], capture_output=True).returncode != 0:
        return None
    return found


def profile(url: str, model: str, requests: Sequence[Request], concurrency: int, *, count: int, timeout: float) -> list[Stream]:
    """So many requests, of these in turn, at this concurrency: a new one is sent whenever one ends.

    Raises:
        RuntimeError: perf_analyzer failed or exported nothing.
        subprocess.TimeoutExpired: it took longer.
    """
    with tempfile.TemporaryDirectory(prefix="ananke-perf-") as folder:
        data, export = Path(folder) / "requests.json", Path(folder) / "export.json"
        data.write_text(json.dumps({"data": [{name: [value] for name, value in one.tensors(model).items()} for one in requests]}))
        command = [str(program()), "-m", model, "-i", "grpc", "--streaming", "--async", "-u", url, "--input-data", str(data)]
        command += ["--concurrency-range", str(concurrency), "--request-count", str(count), "--profile-export-file", str(export)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        if done.returncode != 0 or not export.is_file():
            raise RuntimeError(f"perf_analyzer ended with {done.returncode}: {(done.stderr or done.stdout)[-400:]}")
        # Outputs of type BYTES are written as they are, with their length before them.
        return streams_of(json.loads(export.read_text(encoding="utf-8", errors="replace"), strict=False))


def streams_of(export: dict[str, Any]) -> list[Stream]:
    """The streams of a profile export, in which times are nanoseconds; messages without a token are left out."""
    return [
        Stream(
            request["timestamp"] / 1e9,
            [
                (moment / 1e9, int(outputs.get("num_output_tokens") or 0))
                for moment, outputs in zip(request["response_timestamps"], request["response_outputs"], strict=True)
                if outputs.get("num_output_tokens")
            ],
        )
        for experiment in export["experiments"]
        for request in experiment["requests"]
    ]


def by_messages(streams: Sequence[Stream]) -> dict[str, float]:
    """Milliseconds between messages, whatever number of tokens they carry: perf_analyzer's own measure of a token."""
    return percentiles([gap for stream in streams for gap in stream.messages()], scale=1e3)
