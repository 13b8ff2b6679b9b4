"""A real server of a test's own: Triton, vLLM on CPU and SmolLM2-135M-Instruct, and what such tests say of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from bench_server import found

from ananke_client import AnankeInferenceClient, AnankeInferenceHTTPClient
from ananke_server.launch import DEFAULT_MODEL, PROJECT, LaunchError, TritonServer
from ananke_server.ports import free_ports

READY_SECONDS = 280
STARTS = 2
"""Where a model's process has no processor for a second while it starts, or the clock jumps, Triton waits for ever (before 25.08)."""
Client = AnankeInferenceClient | AnankeInferenceHTTPClient


@dataclass(frozen=True)
class Provenance:
    """Where a server has its signing key and its log, and the key's public half."""

    private_key: Path
    public_key: Path
    log: Path


def require_model() -> None:
    """Fail where there is no model to serve."""
    if not DEFAULT_MODEL.is_dir():
        pytest.fail("the small model is missing: run `make setup`", pytrace=False)


def start_server(
    name: str,
    *,
    models: Sequence[str] = (),
    repositories: Sequence[Path] = (),
    log_file: Path | None = None,
    host: str = "127.0.0.1",
    **environment: str,
) -> TritonServer:
    """A server with the project's models, or with these alone, and those of further repositories, ready.

    Its log is ``.ananke/run/test-NAME.log``.

    Raises:
        LaunchError: it does not start.
    """
    chosen = ["--model-control-mode=explicit", *(f"--load-model={model}" for model in models)] if models else []
    for start in range(1, STARTS + 1):
        http, grpc, metrics = free_ports(3)
        server = TritonServer(
            [PROJECT / "model_repository", *repositories],
            http_port=http,
            grpc_port=grpc,
            metrics_port=metrics,
            model=DEFAULT_MODEL,
            host=host,
            environment=environment,
            extra_arguments=chosen,
            log_file=log_file or PROJECT / ".ananke" / "run" / f"test-{name}.log",
        )
        server.start()
        try:
            server.wait_until_ready(READY_SECONDS)
        except BaseException as fault:
            hangs = isinstance(fault, LaunchError) and server.running
            server.stop()
            if not hangs or start == STARTS:
                raise
        else:
            break
    return server


def kill(server: TritonServer, name: str) -> None:
    """Kill every process of the server whose command line has this in it."""
    pids = found(server, name)
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
