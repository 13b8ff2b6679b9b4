"""Cores that are kept for the engine's threads: which, for whom, and that everything else keeps off them."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ananke_server import cores
from ananke_server.cores import KEPT_VARIABLE, TooFewCoresError, available, kept, kept_off, physical, to_keep, use_kept
from ananke_server.masking.crew import default_processes
from ananke_server.settings import Settings

Machine = Callable[..., list[set[int]]]
SEVERAL = pytest.mark.skipif(len(physical(os.sched_getaffinity(0))) < 2, reason="one core cannot be kept of one")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes this a machine of cores with these hyperthreads, by their lists, and GPUs; returns what is asked of the kernel."""
    monkeypatch.delenv(KEPT_VARIABLE, raising=False)

    def make(allowed: int | set[int], siblings: dict[int, str] | None = None, *, gpus: int = 0, cpuset: str = "") -> list[set[int]]:
        asked = [set(range(allowed)) if isinstance(allowed, int) else allowed]
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: asked[-1] & (cores._listed(tmp_path / "cpuset.cpus.effective") or asked[0]))
        monkeypatch.setattr(os, "sched_setaffinity", lambda _, given: asked.append(set(given)))
        for core, text in (siblings or {}).items():
            folder = tmp_path / f"cpu{core}" / "topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(f"{text}\n")
        for number in range(gpus):
            (tmp_path / f"nvidia{number}").touch()
        (tmp_path / "nvidiactl").touch()
        for name in ("possible", "online"):
            (tmp_path / name).write_text("0-63\n")
        if cpuset:
            (tmp_path / "cpuset.cpus.effective").write_text(f"{cpuset}\n")
        for name in ("_CORES", "_DEVICES", "_GROUPS"):
            monkeypatch.setattr(cores, name, tmp_path)
        monkeypatch.setattr(cores, "on_cpu", lambda: False)
        return asked

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


def test_none_are_kept_by_default_from_an_engine_that_computes_on_them(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(16, gpus=1)
    monkeypatch.setattr(cores, "on_cpu", lambda: True)
    assert to_keep(None, 1) == set()


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
    with pytest.raises(TooFewCoresError, match=rf"engine_cores is {asked}, and of 4 cores one has to be left: set it to 3 at most"):
        to_keep(asked, 1)


@pytest.mark.parametrize(
    ("siblings", "choices"),
    [
        pytest.param({core: f"{core % 4},{core % 4 + 4}" for core in range(8)}, [{0, 4}, {1, 5}, {2, 6}, {3, 7}], id="0,4"),
        pytest.param({core: f"{core // 2 * 2}-{core // 2 * 2 + 1}" for core in range(8)}, [{0, 1}, {2, 3}, {4, 5}, {6, 7}], id="0-1"),
        pytest.param({core: f"{core},{core + 8}" for core in range(8)}, [{core} for core in range(8)], id="0,8 of which one is ours"),
        pytest.param(dict.fromkeys(range(8), ""), [{core} for core in range(8)], id="nothing"),
    ],
)
def test_a_core_is_kept_with_its_hyperthreads(machine: Machine, siblings: dict[int, str], choices: list[set[int]]) -> None:
    machine(8, siblings)
    assert to_keep(1, 1) in choices


def test_hyperthreads_are_no_cores_of_their_own(machine: Machine) -> None:
    machine(8, {core: f"{core % 4},{core % 4 + 4}" for core in range(8)}, gpus=1)
    assert to_keep(None, 1) == set(), "there are four"
    with pytest.raises(TooFewCoresError, match="of 4 cores"):
        to_keep(4, 1)


@pytest.mark.parametrize(("told", "understood"), [("6,7", {6, 7}), ("", set()), ("6,64,100", {6}), ("0-1,x", set())])
def test_only_cores_that_there_are_count_as_kept(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, told: str, understood: set[int]
) -> None:
    machine(6)
    monkeypatch.setenv(KEPT_VARIABLE, told)
    assert (kept(), available()) == (understood, {*range(6), *understood})


def test_what_is_kept_is_counted_among_what_the_server_has(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def counts() -> tuple[int, ...]:
        made = Settings(model="m")
        return default_processes(), made.validate_instances, made.relay_instances, made.sandbox_workers

    machine(16)
    before = counts()
    machine(set(range(12)))
    assert counts() != before
    monkeypatch.setenv(KEPT_VARIABLE, "12,13,14,15")
    assert counts() == before


@pytest.mark.parametrize(
    ("cpuset", "without", "back"),
    [
        pytest.param("0-3", {*range(64)} - {3}, {*range(64)}, id="a cpuset bounds, and may give others later"),
        pytest.param("0-7", {0, 1, 2}, {0, 1, 2, 3}, id="somebody has chosen these of the cpuset's"),
        pytest.param("", {0, 1, 2}, {0, 1, 2, 3}, id="or of the machine's"),
    ],
)
def test_a_cpuset_that_changes_is_followed(machine: Machine, cpuset: str, without: set[int], back: set[int]) -> None:
    asked = machine(4, cpuset=cpuset)
    with kept_off({3}):
        assert asked[1:] == [without]
    assert asked[1:] == [without, back]


def test_the_engines_thread_starts_from_the_core_that_is_kept(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = machine(3, cpuset="0-3")
    monkeypatch.setenv(KEPT_VARIABLE, "3")
    use_kept()
    assert asked[1:] == [{3}, {*range(64)}]


# Prints what its main thread may use, and then what one may that was there before.
ENGINE = """
import os, threading
from ananke_server.masking.worker import WorkerExtension
told = threading.Event()
other = threading.Thread(target=lambda: (told.wait(), print(*os.sched_getaffinity(0))))
other.start()
WorkerExtension().ananke_use_kept_cores()
print(*os.sched_getaffinity(0), flush=True)
told.set()
"""


@SEVERAL
def test_a_process_keeps_off_and_the_thread_that_they_are_kept_for_does_not() -> None:
    before = os.sched_getaffinity(0)
    chosen = to_keep(1, 1)
    variable = ",".join(map(str, chosen))
    with kept_off(chosen):
        done = subprocess.run([sys.executable, "-c", ENGINE], env=os.environ | {KEPT_VARIABLE: variable}, capture_output=True, check=True)
    assert os.sched_getaffinity(0) == before
    assert [set(map(int, line.split())) for line in done.stdout.splitlines()] == [before, before - chosen]


@SEVERAL
def test_who_starts_a_process_has_all_cores_again_where_that_fails() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(FileNotFoundError), kept_off(to_keep(1, 1)):
        subprocess.run(["/nowhere"], check=True)
    assert os.sched_getaffinity(0) == before


def test_without_any_kept_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEPT_VARIABLE, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: pytest.fail("it was called"))
    with kept_off(set()):
        pass
    use_kept()


def test_where_the_kernel_refuses_the_server_goes_without(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    machine(4)
    monkeypatch.setenv(KEPT_VARIABLE, "3")
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with caplog.at_level(logging.WARNING), kept_off({3}):
        use_kept()
    assert "no core is kept for the engine's threads: [Errno 1] Operation not permitted" in caplog.text
