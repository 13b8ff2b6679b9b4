"""Control groups: how much memory the kernel lets this process and its children take, in version 1 and version 2."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_ESCAPED = re.compile(r"\\([0-7]{3})")
# The limit, what is taken, and the page cache within it, which is given up before anything is killed; of all groups below, too.
_FILES = (("memory.max", "memory.current", "inactive_file"), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))


def memory_left(process: Path = Path("/proc/self")) -> int | None:
    """Bytes that new processes may take: the least that a group of this process leaves, its own or one around it; None without limits.

    Args:
        process: the process's folder in /proc.
    """
    left = [left for group in _memory_groups(process) if (left := _left_in(group)) is not None]
    return max(0, min(left)) if left else None


def _memory_groups(process: Path) -> Iterator[Path]:
    """The folders of the groups that bound the process's memory, as far as it can see them."""
    try:
        own = dict(line.split(":", 2)[1:] for line in (process / "cgroup").read_text().splitlines())
        mounts = (process / "mountinfo").read_text().splitlines()
    except OSError:
        return
    paths = {name: PurePosixPath(path) for names, path in own.items() for name in names.split(",")}
    for mount in mounts:
        where, _, what = mount.partition(" - ")
        kind, _, options = what.split(" ", 2)
        controller = "" if kind == "cgroup2" else "memory" if kind == "cgroup" and "memory" in options.split(",") else None
        if controller is None or controller not in paths:
            continue
        root, top = (_ESCAPED.sub(lambda code: chr(int(code[1], 8)), path) for path in where.split(" ")[3:5])
        path = paths[controller]
        # A container may be told its group by the machine's name and shown the group itself alone.
        inner = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
        yield from (Path(top) / part for part in (inner, *inner.parents))


def _left_in(group: Path) -> int | None:
    for limit, taken, kept in _FILES:
        with suppress(OSError, ValueError):  # of the other version, not to be seen, or "max"
            bound = int((group / limit).read_text())
            cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines()).get(kept, 0)
            return bound - int((group / taken).read_text()) + int(cached)
    return None
