"""The folder where a supervisor's socket lies, this user's alone."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SOCKET = "socket"
"""The name of the socket in the folder."""


def shared_folder(options: str) -> Path:
    """The folder that processes with the same options have in common, if one parent has started them: a Triton server its models."""
    # With its start time the parent's number is not used twice.
    parent = os.getppid()
    started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    digest = hashlib.sha256(options.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"ananke-sandbox-{os.getuid()}-{parent}-{started}-{digest}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder where it is missing, and hold its lock: one process at a time starts or removes a supervisor.

    Raises:
        PermissionError: the folder is not this user's alone.
    """
    while True:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            status = os.fstat(descriptor)
            if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
                raise PermissionError(f"{folder} is not this user's alone")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(folder, status):
                yield
                return
        finally:
            os.close(descriptor)


def _is_at(folder: Path, status: os.stat_result) -> bool:
    """Whether that folder still lies there: who held the lock before may have removed it."""
    try:
        return os.path.samestat(folder.stat(), status)
    except FileNotFoundError:
        return False
