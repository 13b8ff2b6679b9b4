"""Temporary files that belong to a process: named by its number and start, so that what a dead one left is known as such."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path


def owned_path(kind: str, pid: int, suffix: str = "") -> Path:
    """Where a process's file or folder of this kind lies, after removing those whose processes have ended.

    Raises:
        ProcessLookupError: there is no such process.
    """
    remove_orphans(kind)
    started = _start_of(pid)
    if started is None:
        raise ProcessLookupError(f"there is no process {pid}")
    return _folder() / f"{_prefix(kind)}{pid}-{started}{suffix}"


def remove_orphans(kind: str) -> None:
    """Remove what processes have left that were killed together with those that would have removed it. Never raises."""
    named = re.compile(re.escape(_prefix(kind)) + r"(\d+)-(\d+)(-.*)?")
    for path in _folder().glob(f"{_prefix(kind)}*"):
        match = named.fullmatch(path.name)
        if match is None or _start_of(int(match[1])) == match[2]:
            continue
        with suppress(OSError):
            if path.lstat().st_uid != os.getuid():
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _prefix(kind: str) -> str:
    # Containers may share a folder, and each counts its processes for itself.
    return f"ananke-{kind}-{os.getuid()}-{os.stat('/proc/self/ns/pid').st_ino}-"


def _folder() -> Path:
    return Path(tempfile.gettempdir())


def _start_of(pid: int) -> str | None:
    """When it started, in the kernel's ticks: with that its number is not used twice."""
    fields = stat_fields(pid)
    return None if fields is None else fields[19]


def stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on, None where there is no such process."""
    try:
        # The second, the program's name in brackets, may hold anything.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
