"""A disk that can be filled: a small file system of its own where this machine lets us mount one."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ananke_server.launch import TritonServer

FILL = "fill"


class MountRefusedError(RuntimeError):
    """This machine does not let us mount; the message is mount's own."""


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """A tmpfs of so many KiB at a folder, which is made.

    Raises:
        MountRefusedError: there is none to be had, as in a container without the right to mount.
    """
    folder.mkdir(parents=True)
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder], capture_output=True, text=True)
    except OSError as fault:
        raise MountRefusedError(str(fault)) from None
    if mounted.returncode != 0:
        raise MountRefusedError(mounted.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> None:
    """Write to a disk until not one more byte goes onto it."""
    with (disk / FILL).open("ab", buffering=0) as file:
        for size in (4096, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass
    left = os.statvfs(disk).f_bavail
    if left:
        raise AssertionError(f"{disk} is not full")


def free(disk: Path) -> None:
    """Take away what filled it."""
    (disk / FILL).unlink()


@contextmanager
def limited(server: TritonServer, file: Path, more: int) -> Iterator[None]:
    """A file may grow by ``more`` bytes: the server's processes that have it open get a limit on the size of files (RLIMIT_FSIZE)."""
    pids = [pid for pid in server.session.members() if _has_open(pid, file)]
    assert pids, f"no process has {file} open"
    size = file.stat().st_size + more
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def _has_open(pid: int, file: Path) -> bool:
    with suppress(OSError):
        return any(os.path.realpath(entry.path) == str(file.resolve()) for entry in os.scandir(f"/proc/{pid}/fd"))
    return False
