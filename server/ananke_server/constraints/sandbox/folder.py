"""The folder where a supervisor's socket lies, this user's alone."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ananke_server.ownership import owned_path

SOCKET = "socket"
"""The name of the socket in the folder."""


def shared_folder(options: str) -> Path:
    """The folder that processes with the same options have in common, if one parent has started them: a Triton server its models."""
    digest = hashlib.sha256(options.encode()).hexdigest()[:16]
    return owned_path("sandbox", os.getppid(), f"-{digest}")


def own_folder() -> Path:
    """A folder of this process alone."""
    return owned_path("sandbox", os.getpid(), f"-{secrets.token_hex(8)}")


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
