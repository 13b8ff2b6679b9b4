"""A session: a server's processes and shared memory, as any process of the machine can find and end them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ananke_server.ownership import stat_fields

SHARED_MEMORY = Path("/dev/shm")
STRAGGLERS_SECONDS = 5.0  # what the server leaves behind it may take to end by itself


@dataclass(frozen=True)
class Session:
    """A server's processes and shared memory, as any process of the machine can find them.

    Its processes are those of the kernel session that it leads; the time of its start tells it from a later process of the same number.
    """

    leader: int
    started: int
    shm_prefix: str

    @classmethod
    def of(cls, leader: int, shm_prefix: str) -> Session:
        process = read_process(leader)
        return cls(leader, process.started if process else 0, shm_prefix)

    @property
    def running(self) -> bool:
        return self.leader in self.members()

    def members(self) -> list[int]:
        leader = read_process(self.leader)
        if leader is not None and self.started and leader.started != self.started:
            return []
        return [process.pid for process in processes() if process.session == self.leader and not process.ended]

    def end(self, grace: float) -> None:
        """SIGTERM to the server, SIGKILL to what is left when the grace is over, and then the shared memory goes. Never raises."""
        shared = shared_memory_of(self.members())
        if self.running:
            send(self.leader, signal.SIGTERM)
            wait_until(lambda: not self.running, grace)
        shared |= shared_memory_of(self.members())
        # A server that ignored the grace has used up its stragglers' time too.
        wait_until(lambda: not self.members(), 0.0 if self.running else STRAGGLERS_SECONDS)
        while members := self.members():
            for pid in members:
                send(pid, signal.SIGKILL)
            time.sleep(0.05)
        self._remove(shared)

    def _remove(self, shared: set[Path]) -> None:
        # A region that someone else has mapped is theirs: a client's tensors, say.
        shared -= shared_memory_of([process.pid for process in processes()])
        for path in shared | set(SHARED_MEMORY.glob(f"*{self.shm_prefix}*")):
            with suppress(OSError):
                path.unlink()


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    session: int
    started: int
    ended: bool


def processes() -> Iterator[Process]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (process := read_process(int(entry.name))):
            yield process


def read_process(pid: int) -> Process | None:
    fields = stat_fields(pid)
    if fields is None:
        return None
    return Process(pid, parent=int(fields[1]), session=int(fields[3]), started=int(fields[19]), ended=fields[0] in "ZX")


def shared_memory_of(pids: Sequence[int]) -> set[Path]:
    """The files under /dev/shm that these processes have mapped."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
                _, slash, name = line.partition(f" {SHARED_MEMORY}/")
                if slash and not name.endswith(" (deleted)"):
                    found.add(SHARED_MEMORY / name)
    return found


def send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
