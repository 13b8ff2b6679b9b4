"""Cores that are kept for the engine's threads: which, for whom, and that everything else keeps off them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ananke_server import cores
from ananke_server.cores import KEPT_VARIABLE, TooFewCoresError, available, kept, kept_off, to_keep, use_kept

Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes this a machine of cores with these hyperthreads, by their lists, and GPUs."""

    def make(allowed: int | set[int], siblings: dict[int, str] | None = None, gpus: int = 0) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)) if isinstance(allowed, int) else allowed)
        for core, text in (siblings or {}).items():
            folder = tmp_path / "cpu" / f"cpu{core}" / "topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(f"{text}\n")
        (tmp_path / "dev").mkdir()
        for number in range(gpus):
            (tmp_path / "dev" / f"nvidia{number}").touch()
        (tmp_path / "dev" / "nvidiactl").touch()
        monkeypatch.setattr(cores, "_TOPOLOGY", tmp_path / "cpu")
        monkeypatch.setattr(cores, "_DEVICES", tmp_path / "dev")

    return make


@pytest.mark.parametrize(
    ("allowed", "gpus", "workers", "count"),
    [
        pytest.param(16, 1, 1, 1, id="one for a worker"),
        pytest.param(16, 2, 2, 2, id="and for each of two"),
        pytest.param(15, 2, 2, 0, id="not where there are fewer than eight for each"),
        pytest.param(7, 1, 1, 0, id="or for the only one"),
        pytest.param(16, 0, 1, 0, id="nor without a GPU"),
        pytest.param({3, 5, *range(20, 28)}, 1, 1, 1, id="of those that this process may use"),
    ],
)
def test_cores_are_kept_by_default_where_there_are_enough(
    machine: Machine, allowed: int | set[int], gpus: int, workers: int, count: int
) -> None:
    machine(allowed, gpus=gpus)
    chosen = to_keep(None, workers)
    assert len(chosen) == count
    assert chosen <= os.sched_getaffinity(0)


@pytest.mark.parametrize("asked", [0, 1, 3])
def test_as_many_are_kept_as_are_asked_for(machine: Machine, asked: int) -> None:
    machine(4)
    assert len(to_keep(asked, 1)) == asked


def test_servers_that_share_a_machine_do_not_all_choose_the_same(machine: Machine) -> None:
    machine(16, gpus=1)
    assert len({frozenset(to_keep(None, 1)) for _ in range(50)}) > 1


@pytest.mark.parametrize("asked", [4, 9])
def test_one_is_left_for_everything_else(machine: Machine, asked: int) -> None:
    machine(4)
    with pytest.raises(TooFewCoresError, match=rf"engine_cores is {asked}, and there are 4 cores: set it to 3 at most, or to 0"):
        to_keep(asked, 1)


@pytest.mark.parametrize(
    ("siblings", "possible"),
    [
        pytest.param({core: f"{core % 4},{core % 4 + 4}" for core in range(8)}, [{0, 4}, {1, 5}, {2, 6}, {3, 7}], id="0,4"),
        pytest.param({core: f"{core // 2 * 2}-{core // 2 * 2 + 1}" for core in range(8)}, [{0, 1}, {2, 3}, {4, 5}, {6, 7}], id="0-1"),
        pytest.param({core: f"{core},{core + 8}" for core in range(8)}, [{core} for core in range(8)], id="0,8 of which one is ours"),
    ],
)
def test_a_core_is_kept_with_its_hyperthreads(machine: Machine, siblings: dict[int, str], possible: list[set[int]]) -> None:
    machine(8, siblings)
    assert to_keep(1, 1) in possible


def test_hyperthreads_are_no_cores_of_their_own(machine: Machine) -> None:
    machine(8, {core: f"{core % 4},{core % 4 + 4}" for core in range(8)}, gpus=1)
    assert to_keep(None, 1) == set(), "there are four"
    with pytest.raises(TooFewCoresError, match="there are 4 cores"):
        to_keep(4, 1)


def test_what_is_kept_is_counted_among_what_the_server_has(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(6)
    monkeypatch.setenv(KEPT_VARIABLE, "6,7")
    assert (kept(), available()) == ({6, 7}, set(range(8)))
    monkeypatch.setenv(KEPT_VARIABLE, "")
    assert (kept(), available()) == (set(), set(range(6)))


# Prints what its main thread may use, and then what one may that was there before.
ENGINE = """
import os, threading
from ananke_server.cores import use_kept
told = threading.Event()
other = threading.Thread(target=lambda: (told.wait(), print(*os.sched_getaffinity(0))))
other.start()
use_kept()
print(*os.sched_getaffinity(0), flush=True)
told.set()
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core cannot be kept of one")
def test_a_process_keeps_off_and_the_thread_that_they_are_kept_for_does_not() -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    with kept_off({core}):
        done = subprocess.run([sys.executable, "-c", ENGINE], env=os.environ | {KEPT_VARIABLE: str(core)}, capture_output=True, check=True)
    assert os.sched_getaffinity(0) == before
    assert [set(map(int, line.split())) for line in done.stdout.splitlines()] == [before, before - {core}]


def test_without_any_kept_nothing_changes() -> None:
    before = os.sched_getaffinity(0)
    with kept_off(set()):
        assert os.sched_getaffinity(0) == before
    use_kept()
    assert os.sched_getaffinity(0) == before
