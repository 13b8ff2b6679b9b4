"""Owned paths: named after a living process, and removed once it has ended."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ananke_server.ownership import owned_path, remove_orphans


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left_by_a_dead_process(suffix: str = "") -> Path:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        path = owned_path("test", process.pid, suffix)
    return path


def test_the_same_process_has_the_same_path() -> None:
    assert owned_path("test", os.getpid()) == owned_path("test", os.getpid())
    assert owned_path("test", os.getpid()) != owned_path("test", os.getppid())
    assert owned_path("test", os.getpid(), "-a") != owned_path("test", os.getpid(), "-b")


def test_a_process_that_is_not_there_has_none() -> None:
    with pytest.raises(ProcessLookupError):
        owned_path("test", 2**22 + 1)


def test_what_the_dead_left_is_removed_and_nothing_else(folder: Path) -> None:
    orphaned_file, orphaned_folder = left_by_a_dead_process(), left_by_a_dead_process("-a")
    orphaned_file.write_text("secret")
    orphaned_folder.mkdir()
    (orphaned_folder / "socket").touch()
    alive, other_kind = owned_path("test", os.getpid()), Path(str(orphaned_file).replace("-test-", "-other-"))
    alive.touch()
    other_kind.touch()
    unlike = folder / f"{orphaned_file.name}x"
    unlike.touch()
    remove_orphans("test")
    assert {*folder.iterdir()} == {alive, other_kind, unlike}


def test_a_number_used_again_is_not_the_same_process(folder: Path) -> None:
    path = owned_path("test", os.getpid())
    former = path.with_name(f"{path.name.rpartition('-')[0]}-1")
    former.touch()
    assert owned_path("test", os.getpid()) == path
    assert not former.exists()


def test_a_link_is_removed_and_what_it_leads_to_is_not(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    kept = tmp_path_factory.mktemp("kept")
    (kept / "file").touch()
    link = left_by_a_dead_process()
    link.symlink_to(kept)
    remove_orphans("test")
    assert not link.is_symlink()
    assert (kept / "file").exists()
