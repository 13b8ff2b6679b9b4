"""The provenance log: rotation, syncing, a full disk, and crashes at any moment."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from waiting import PATIENCE, wait_until

from ananke_server.provenance.log import LogError, LogState, ProvenanceLog

DISK = 1 << 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "provenance.jsonl"


def opened(path: Path, **options: Any) -> ProvenanceLog:
    return ProvenanceLog(path, **({"max_bytes": 1 << 20, "files": 3, "fsync": "never"} | options))


def line(number: int, size: int = 0) -> bytes:
    return json.dumps({"number": number, "fill": "x" * size}).encode()


def numbers(*paths: Path) -> list[int]:
    """The numbers of all lines, each of which has to be whole."""
    found = []
    for path in paths:
        data = path.read_bytes()
        assert data == b"" or data.endswith(b"\n")
        found += [json.loads(text)["number"] for text in data.splitlines()]
    return found


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_lines_are_appended_in_order_and_over_starts(path: Path, fsync: str) -> None:
    for start in (0, 50):
        log = opened(path, fsync=fsync)
        futures = [log.append(line(number)) for number in range(start, start + 50)]
        assert [future.result(timeout=PATIENCE) for future in futures] == [None] * 50
        assert log.state == LogState(written=50, lost=0, error=None)
        log.close()
    assert numbers(path) == list(range(100))
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("fsync", "before_done"), [("always", True), ("interval", False), ("never", False)])
def test_the_policy_says_when_lines_are_synced(path: Path, fsync: str, before_done: bool) -> None:
    synced: list[float] = []
    with patch("ananke_server.provenance.log.os.fdatasync", side_effect=lambda _: synced.append(time.monotonic())):
        log = opened(path, fsync=fsync, fsync_seconds=2.0 if fsync == "interval" else 0.2)
        begin = time.monotonic()
        log.append(line(1)).result(timeout=PATIENCE)
        assert bool(synced) is before_done
        if fsync == "interval":
            wait_until(lambda: synced)
            assert synced[0] - begin > 1.9
        time.sleep(0.5)
        assert len(synced) == (0 if fsync == "never" else 1)
        log.close()


def test_lines_that_wait_share_a_sync(path: Path) -> None:
    with patch("ananke_server.provenance.log.os.fdatasync", side_effect=lambda _: time.sleep(0.05)) as sync:
        log = opened(path, fsync="always")
        for future in [log.append(line(number)) for number in range(200)]:
            future.result(timeout=PATIENCE)
        assert sync.call_count < 10
        log.close()
    assert numbers(path) == list(range(200))


def test_a_file_that_is_full_is_rotated_and_the_oldest_goes(path: Path) -> None:
    log = opened(path, max_bytes=1000, files=2)
    for number in range(40):
        log.append(line(number, 70))
    log.close()
    files = [path.with_name(f"{path.name}.{number}") for number in (2, 1)]
    assert {entry.name for entry in path.parent.iterdir()} == {path.name, *(file.name for file in files)}
    kept = numbers(*files, path)
    assert kept == list(range(kept[0], 40)), "no line is lost between files"
    assert all(file.stat().st_size <= 1000 for file in [*files, path])
    assert len(kept) > 20


def test_without_rotated_files_only_the_current_one_is_kept(path: Path) -> None:
    log = opened(path, max_bytes=300, files=0)
    for number in range(10):
        log.append(line(number, 100))
    log.close()
    assert list(path.parent.iterdir()) == [path]
    assert numbers(path) == [8, 9]


def test_a_line_larger_than_a_file_has_a_file_of_its_own(path: Path) -> None:
    log = opened(path, max_bytes=100)
    for number in range(3):
        log.append(line(number, 500))
    log.close()
    assert numbers(*(path.with_name(f"{path.name}.{number}") for number in (2, 1)), path) == [0, 1, 2]


def test_where_rotation_fails_the_log_goes_on(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with patch("pathlib.Path.replace", side_effect=OSError(errno.EACCES, "Permission denied")):
        log = opened(path, max_bytes=500)
        for number in range(20):
            log.append(line(number, 70)).result(timeout=PATIENCE)
        assert log.state.lost == 0
        log.close()
    assert numbers(path) == list(range(20))
    assert 1 <= caplog.text.count("is not rotated: Permission denied") <= 6, "told once for each file's length"


@pytest.mark.parametrize("files", [0, 2])
def test_where_no_further_file_opens_the_log_goes_on_under_its_name(path: Path, files: int) -> None:
    log = opened(path, max_bytes=500, files=files)
    with patch("ananke_server.provenance.log._opened", side_effect=OSError(errno.EMFILE, "Too many open files")):
        for number in range(20):
            log.append(line(number, 70)).result(timeout=PATIENCE)
    assert numbers(path) == list(range(20))
    log.close()


@pytest.mark.parametrize("torn", [b'{"number": 7, "fi', b"\0" * 5000, b"x" * 200_000])
@pytest.mark.parametrize("before", [0, 3])
def test_what_a_crash_left_of_a_line_is_cut_off(path: Path, torn: bytes, before: int, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(b"".join(line(number) + b"\n" for number in range(before)) + torn)
    log = opened(path)
    assert f"{len(torn)} bytes of a line" in caplog.text
    log.append(line(before))
    log.close()
    assert numbers(path) == list(range(before + 1))


WRITER = """
import sys
from pathlib import Path
from ananke_server.provenance.log import ProvenanceLog
log = ProvenanceLog(Path(sys.argv[1]), max_bytes=1 << 26, files=4, fsync="never")
print("open", flush=True)
number = 0
while True:
    futures = [log.append(b'{"number": %d, "fill": "%b"}' % (at, b"x" * (at * 7_919_777 % 16_000_000))) for at in range(number, number + 5)]
    [future.result() for future in futures]
    number += 5
"""


def test_a_writer_killed_at_any_moment_leaves_whole_lines_alone(path: Path) -> None:
    torn = 0
    for round_ in range(12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"open\n"
        while not path.stat().st_size:
            time.sleep(0.001)
        time.sleep(0.013 * round_)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        torn += path.exists() and not path.read_bytes().endswith(b"\n")  # it may have been renamed, and the next not made yet
        opened(path, files=4).close()
        files = sorted(path.parent.glob(f"{path.name}.*"), reverse=True)
        kept = numbers(*files, path)
        assert kept, "nothing was written before the kill"
        assert kept == list(range(kept[0], kept[0] + len(kept))), "a line is missing within"
        for file in (*files, path):
            file.unlink()
    assert torn, "no kill fell into a write, so nothing was shown"


def test_a_log_belongs_to_one_process(path: Path) -> None:
    log = opened(path)
    with pytest.raises(LogError, match="open in another process"):
        opened(path)
    log.close()
    opened(path).close()


@pytest.mark.parametrize("bad", ["/proc/none/log", "/proc/self"])
def test_a_log_that_cannot_be_opened_is_told(bad: str) -> None:
    with pytest.raises(LogError, match=f"the provenance log {bad} cannot be opened"):
        opened(Path(bad))


@contextmanager
def small_disk() -> Iterator[None]:
    """Files may have ``DISK`` bytes, after which a write is cut short and the next one fails: as on a full disk.

    No fixture, within which pytest itself writes to what may be a larger file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (DISK, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@small_disk()
def test_a_full_disk_loses_lines_and_says_so_and_tears_none(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = opened(path)
    futures = [log.append(line(number, 999)) for number in range(100)]
    faults = [future.exception(timeout=PATIENCE) for future in futures]
    lost = sum(fault is not None for fault in faults)
    assert 30 < lost < 50
    assert all(isinstance(fault, OSError) and fault.errno == errno.EFBIG for fault in faults if fault is not None)
    assert log.state == LogState(written=100 - lost, lost=lost, error="File too large")
    assert caplog.text.count("loses lines: File too large") == 1, "told once, not for each line"
    assert numbers(path) == list(range(100 - lost))
    os.truncate(path, 0)  # somebody makes room
    with caplog.at_level(logging.WARNING):
        log.append(line(100)).result(timeout=PATIENCE)
    assert log.state == LogState(written=101 - lost, lost=lost, error=None)
    assert f"written again; {lost} lines are lost" in caplog.text
    log.close()
    assert numbers(path) == [100]


@small_disk()
def test_what_could_not_be_taken_back_is_taken_back_before_the_next_line(path: Path) -> None:
    log = opened(path)
    with patch("ananke_server.provenance.log.os.ftruncate", side_effect=OSError(errno.EIO, "Input/output error")):
        assert log.append(line(0, DISK)).exception(timeout=PATIENCE) is not None
    assert path.stat().st_size == DISK
    log.append(line(1)).result(timeout=PATIENCE)
    log.close()
    assert numbers(path) == [1]


def test_a_file_that_another_process_truncates_has_no_nuls(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = opened(path)
    log.append(line(0, 500)).result(timeout=PATIENCE)
    os.truncate(path, 0)  # logrotate's copytruncate
    for number in (1, 2):
        log.append(line(number)).result(timeout=PATIENCE)
    log.close()
    assert numbers(path) == [1, 2]
    assert caplog.text.count("another process has changed it") == 1


@pytest.mark.parametrize("end", ["\n", ""])
def test_what_another_process_has_written_stays(path: Path, end: str) -> None:
    log = opened(path)
    log.append(line(0)).result(timeout=PATIENCE)
    with path.open("a") as other:
        other.write(f'{{"number": 1}}{end}')
    log.append(line(2)).result(timeout=PATIENCE)
    log.close()
    assert numbers(path) == [0, 1, 2]


@small_disk()
def test_behind_half_a_line_that_others_have_written_after_nothing_is_cut_off(path: Path) -> None:
    log = opened(path)
    with patch("ananke_server.provenance.log.os.ftruncate", side_effect=OSError(errno.EIO, "Input/output error")):
        assert log.append(line(0, DISK)).exception(timeout=PATIENCE) is not None
    os.truncate(path, 100)
    log.append(line(1)).result(timeout=PATIENCE)
    log.close()
    torn, whole = path.read_bytes().splitlines()
    assert (len(torn), json.loads(whole)["number"]) == (100, 1)


def test_a_size_that_another_process_has_changed_counts_for_rotation(path: Path) -> None:
    log = opened(path, max_bytes=1000, files=1)
    for number in range(30):
        log.append(line(number, 100)).result(timeout=PATIENCE)
        os.truncate(path, 0)
    log.close()
    assert list(path.parent.iterdir()) == [path]


def test_a_disk_that_does_not_sync_is_told(path: Path) -> None:
    with patch("ananke_server.provenance.log.os.fdatasync", side_effect=OSError(errno.EIO, "Input/output error")):
        log = opened(path, fsync="always")
        assert isinstance(log.append(line(0)).exception(timeout=PATIENCE), OSError)
        assert log.state.error == "Input/output error"
    log.append(line(1)).result(timeout=PATIENCE)
    log.close()


def test_a_disk_that_hangs_fills_the_queue_and_no_more(path: Path) -> None:
    with patch("ananke_server.provenance.log.QUEUED_LINES", 5), patch("ananke_server.provenance.log.os.write", side_effect=hanging_write):
        log = opened(path)
        futures = [log.append(line(number)) for number in range(20)]
        lost = [future for future in futures if future.done() and future.exception() is not None]
        assert 9 <= len(lost) <= 15, "all but those that wait, and those that the writer had taken"
        assert "lines wait for the disk" in str(lost[0].exception())
        assert all(future.exception(timeout=PATIENCE) is None for future in futures if future not in lost)
        log.close()
    assert len(numbers(path)) == 20 - len(lost)


_write = os.write


def hanging_write(file: int, data: bytes) -> int:
    time.sleep(0.2)
    return _write(file, data)
