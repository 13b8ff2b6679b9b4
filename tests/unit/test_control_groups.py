"""Control groups: the memory that a process's groups leave, read from folders like the kernel's, and from this machine's own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import PATIENCE

from ananke_server.control_groups import memory_left

V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
UNLIMITED = 9223372036854771712


class Machine:
    """A process's folder in /proc, and the groups that it is in."""

    def __init__(self, folder: Path, groups: str, mounts: str) -> None:
        self.process, self.groups = folder / "proc", folder / "groups of mine"
        self.process.mkdir()
        (self.process / "cgroup").write_text(groups)
        (self.process / "mountinfo").write_text(mounts.replace("GROUPS", str(self.groups).replace(" ", "\\040")))

    def group(self, path: str, names: tuple[str, str, str], limit: str | int, taken: int = 0, cached: int = 0) -> None:
        folder = self.groups / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{taken}\n")
        (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {cached}\n")

    def left(self) -> int | None:
        return memory_left(self.process)


@pytest.fixture
def second(tmp_path: Path) -> Machine:
    return Machine(tmp_path, "0::/user.slice/shell.scope\n", "30 23 0:26 / GROUPS rw,nosuid shared:9 - cgroup2 cgroup2 rw\n")


def test_a_process_s_own_group_bounds_it(second: Machine) -> None:
    second.group("user.slice/shell.scope", V2, 1000, 300, 50)
    assert second.left() == 750


def test_and_so_does_every_group_around_it(second: Machine) -> None:
    second.group("user.slice/shell.scope", V2, "max", 10)
    second.group("user.slice", V2, 500, 400)
    second.group("user.slice/another.scope", V2, 1)
    assert second.left() == 100
    second.group("user.slice", V2, 500, 600)
    assert second.left() == 0, "more is taken than a limit that was lowered since"


def test_where_no_group_has_a_limit_none_is_known(second: Machine, tmp_path: Path) -> None:
    second.group("user.slice/shell.scope", V2, "max", 10)
    assert second.left() is None
    assert memory_left(tmp_path / "no process") is None


def test_version_1_is_read_from_the_memory_controller_alone(tmp_path: Path) -> None:
    mounts = (
        "30 23 0:26 / GROUPS/unified rw - cgroup2 cgroup2 rw\n"
        "31 23 0:27 / GROUPS/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        "32 23 0:28 / GROUPS/memory rw - cgroup cgroup rw,memory\n"
    )
    machine = Machine(tmp_path, "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n", mounts)
    machine.group("memory/docker/abc", V1, UNLIMITED, 10)
    machine.group("memory/docker", V1, 2000, 500, 100)
    machine.group("cpu/docker/abc", V1, 1)
    assert machine.left() == 1600


@pytest.mark.parametrize("root", ["/docker/abc", "/docker/other", "/../.."])
def test_a_container_that_is_shown_its_own_group_alone(tmp_path: Path, root: str) -> None:
    """The mount's root is the group, or the group's name says nothing here: then the mount's top is what can be seen."""
    machine = Machine(tmp_path, "4:memory:/docker/abc\n", f"32 23 0:28 {root} GROUPS ro - cgroup cgroup rw,memory\n")
    machine.group("", V1, 900, 200)
    assert machine.left() == 700


@pytest.fixture
def own_group() -> Iterator[Path]:
    """A group of this machine, with a limit of 300 MiB, that another has within it."""
    top = next((path for path in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")) if (path / "cgroup.procs").exists()), None)
    if top is None or not os.access(top, os.W_OK):
        pytest.skip("this user can make no memory group")
    group = top / f"ananke-test-{uuid.uuid4().hex}"
    inner = group / "inner"
    try:
        inner.mkdir(parents=True)
        for limit in (group / "memory.max", group / "memory.limit_in_bytes"):
            if limit.exists():
                limit.write_text(str(300 << 20))
                break
        else:
            pytest.skip("memory is not under control in the groups of this machine")
        yield inner
    except OSError as fault:
        pytest.skip(f"this user can make no memory group: {fault}")
    finally:
        for made in (inner, group):
            remove(made)


def remove(group: Path) -> None:
    """A group may be busy for a moment after its last process has ended."""
    end = time.monotonic() + PATIENCE
    while group.exists():
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def test_a_real_group_s_limit_holds_for_the_process_in_a_group_within_it(own_group: Path) -> None:
    code = f"""
import os, pathlib
pathlib.Path({str(own_group / "cgroup.procs")!r}).write_text(str(os.getpid()))
from ananke_server.control_groups import memory_left
print(memory_left())
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 200 << 20 < int(told) <= 300 << 20
