"""A server for a benchmark: started with the models it needs, and what its processes take of memory and processor time."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ananke_server.constraints.sandbox.client import SUPERVISOR
from ananke_server.cores import physical
from ananke_server.launch import PROJECT, TritonServer
from ananke_server.ports import free_ports

MIB = 1 << 20
WORK = ("ananke_requests_running", "ananke_engine_batch_requests", "ananke_kv_cache_usage_ratio")
"""The metrics that are 0 where nothing is generated: requests, those in the engine's batch, and the share of the KV cache in use."""


@contextlib.contextmanager
def serving(
    models: Sequence[str],
    log: str,
    *,
    environment: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
    repository: Path = PROJECT / "model_repository",
    timeout: float = 600,
    wait: bool = True,
) -> Iterator[TritonServer]:
    """A server that is ready, or without ``wait`` starting, with these models or, where none is named, all.

    Its log is ``.ananke/run/LOG.log``.

    From here on SIGTERM ends this program in order, and with it the server.

    Raises:
        LaunchError: it does not start.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    http, grpc, metrics = free_ports(3)
    chosen = ["--model-control-mode=explicit", *(f"--load-model={model}" for model in models)] if models else []
    with TritonServer(
        [repository],
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        log_file=PROJECT / ".ananke" / "run" / f"{log}.log",
        environment=environment or {},
        extra_arguments=[*chosen, *arguments],
    ) as server:
        if wait:
            server.wait_until_ready(timeout)
        yield server


@dataclass(frozen=True, slots=True)
class CoreShares:
    """Which of this machine's cores the server may use, and which its clients."""

    server: frozenset[int]
    clients: frozenset[int]

    @classmethod
    def of(cls, server_cores: int | None) -> CoreShares:
        """So many, with their hyperthreads, for the server, the others for its clients; where none are left or asked for, both have all."""
        every = physical(os.sched_getaffinity(0))
        count = server_cores or len(every)
        return cls(*(frozenset().union(*cores) for cores in (every[:count], every[count:] or every)))


def add_server_cores(parser: argparse.ArgumentParser) -> None:
    """The option ``--server-cores``, for ``CoreShares.of``."""
    parser.add_argument("--server-cores", type=int, help="the server has so many cores, and clients the others (default: both have all)")


@contextlib.contextmanager
def on_cores(cores: Iterable[int]) -> Iterator[None]:
    """This thread, and what it starts within the block, run on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def found(server: TritonServer, name: str) -> list[int]:
    """The processes of a server whose command line has this in it."""
    pids = []
    for pid in server.session.members():
        with contextlib.suppress(psutil.NoSuchProcess):
            if name in " ".join(psutil.Process(pid).cmdline()):
                pids.append(pid)
    return pids


def work_of(metrics: str) -> list[float]:
    """The values of ``WORK`` in the text of Triton's metrics."""
    lines = metrics.splitlines()
    return [next(float(line.split()[1]) for line in lines if line.startswith(name)) for name in WORK]


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """One process: its share of the memory (PSS: of a page that several share, each has a part), and its processor time.

    The time is with that of its children that have ended. ``worker``: it is one of the sandbox's, which come and go.
    """

    pid: int
    name: str
    mib: float
    cpu_seconds: float
    worker: bool = False


def uses(pids: Sequence[int]) -> list[ProcessUse]:
    """What the processes of a server take now; those that end meanwhile are left out."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            times = process.cpu_times()
            mib = process.memory_full_info().pss / MIB
            found.append(ProcessUse(pid, _name(process), mib, sum(times[:4]), _is_worker(process)))
    return found


def resident_mib(pids: Sequence[int]) -> float:
    """Resident memory of the processes together, shared pages counted in each: cheap enough to sample."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(pid).memory_info().rss / MIB
    return total


def settled(pids: Sequence[int], seconds: float = 5.0) -> list[ProcessUse]:
    """What the processes take once they have been left alone for a while."""
    time.sleep(seconds)
    return uses(pids)


def _is_worker(process: psutil.Process) -> bool:
    """Whether it was forked by a sandbox's supervisor, whose command line it has."""
    parent = process.parent()
    return SUPERVISOR in process.cmdline() and parent is not None and SUPERVISOR in parent.cmdline()


def _name(process: psutil.Process) -> str:
    """The program, and the model or script that it was started for."""
    words = process.cmdline()[1:]
    model = next((word.split("/")[-3] for word in words if word.endswith("/1/model.py")), "")
    script = next((word.rpartition("/")[2] for word in words if not word.startswith("-")), "")
    return f"{process.name()} {model or script[:40]}".strip()
