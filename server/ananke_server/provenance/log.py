"""The provenance log: one JSON line for each finished request, only ever appended to, rotated by size.

A thread of its own writes. Each line goes out in one write; what a crash has left of a line is cut off when the log is opened
again, and what a full disk has left of one at once. Nothing else is ever cut off: where somebody has truncated the file, or
written to it, the log goes on at its end. A line that cannot be written is counted and told, and the log goes on with the next:
an answer never fails for its log.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)

Fsync = Literal["always", "interval", "never"]
QUEUED_LINES = 10_000
CLOSING_SECONDS = 10.0
_TAIL = 1 << 16


class LogError(RuntimeError):
    """The log cannot be opened; one line says why."""


@dataclass(frozen=True, slots=True)
class LogState:
    """What has become of the lines so far: ``lost`` of them were not written, the last for the reason ``error``.

    ``error`` is None again once a line has been written.
    """

    written: int
    lost: int
    error: str | None


class ProvenanceLog:
    """An open log. ``append`` may be called from any thread; ``close`` writes what is left."""

    def __init__(self, path: Path, *, max_bytes: int, files: int, fsync: Fsync = "interval", fsync_seconds: float = 1.0) -> None:
        """Opens or makes the file, and cuts off what a crash has left of its last line.

        Args:
            max_bytes: a file that would grow beyond this becomes ``PATH.1``, the one before ``PATH.2``.
            files: how many rotated files are kept.
            fsync: ``always``: a line is on the disk before its future is done; ``interval``: a second later; ``never``: as the
                kernel likes. A crash of the server alone loses no line that was written, whichever it is.

        Raises:
            LogError: the file cannot be written, or another process has the log open.
        """
        self._path, self._max_bytes, self._files = path, max_bytes, files
        self._rotate_at = max_bytes
        self._fsync, self._fsync_seconds = fsync, fsync_seconds
        self._queue: queue.Queue[tuple[bytes, Future[None]] | None] = queue.Queue(QUEUED_LINES)
        self._written = self._lost = 0
        self._error: str | None = None
        self._count = threading.Lock()
        self._unsynced_since: float | None = None
        self._at_end = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _opened(path)
        except BlockingIOError:
            raise LogError(f"the provenance log {path} is open in another process; give each server its own") from None
        except OSError as fault:
            raise LogError(f"the provenance log {path} cannot be opened: {fault.strerror}") from None
        self._size = _cut_torn_line(self._file, path)
        self._torn = 0
        """Bytes of a line that failed, and could not be taken back then."""
        self._thread = threading.Thread(target=self._run, name="ananke-provenance-log", daemon=True)
        self._thread.start()

    @property
    def state(self) -> LogState:
        with self._count:
            return LogState(self._written, self._lost, self._error)

    @property
    def is_durable(self) -> bool:
        """Whether a line whose future is done is on the disk."""
        return self._fsync == "always"

    def append(self, line: bytes) -> Future[None]:
        """Queue a line, which has no line's end of its own. Never raises: the future has the ``OSError`` of a line that is lost."""
        done: Future[None] = Future()
        # Nobody who stops waiting can cancel it: the line is written all the same.
        done.set_running_or_notify_cancel()
        try:
            self._queue.put_nowait((line + b"\n", done))
        except queue.Full:
            self._lose([done], OSError(None, f"{QUEUED_LINES} lines wait for the disk"))
        return done

    def close(self) -> None:
        """Write and sync what is queued, and let go of the file; a disk that hangs is not waited for without end."""
        with suppress(queue.Full):
            self._queue.put(None, timeout=CLOSING_SECONDS)
        self._thread.join(timeout=CLOSING_SECONDS)

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            results = [self._write(line, done) for line, done in batch]
            written = [done for (_, done), result in zip(batch, results, strict=True) if result]
            self._sync(written, recovered=results[-1:] == [True], now=self.is_durable)
        self._sync([], recovered=False, now=self._fsync != "never")
        os.close(self._file)

    def _next_batch(self) -> list[tuple[bytes, Future[None]]] | None:
        """The lines that wait, at least one; empty where it is time to sync, None at the end."""
        if self._at_end:
            return None
        wait = None
        if self._unsynced_since is not None and self._fsync == "interval":
            wait = max(0.0, self._unsynced_since + self._fsync_seconds - time.monotonic())
        try:
            first = self._queue.get(timeout=wait)
        except queue.Empty:
            return []
        if first is None:
            return None
        batch = [first]
        # One sync for all that wait: as many as there are, so that none waits for those that come after it.
        for _ in range(self._queue.qsize()):
            if (more := self._queue.get()) is None:
                self._at_end = True
                break
            batch.append(more)
        return batch

    def _write(self, line: bytes, done: Future[None]) -> bool:
        try:
            self._settle()
            if self._size and self._size + len(line) > self._rotate_at:
                self._rotate()
            self._append(self._missing_end() + line)
        except OSError as fault:
            self._lose([done], fault)
            return False
        self._unsynced_since = self._unsynced_since or time.monotonic()
        return True

    def _settle(self) -> None:
        """Take back what this process has half written, and take the file as others have left it.

        Raises:
            OSError: what was half written cannot be taken back.
        """
        size = os.fstat(self._file).st_size
        if self._torn and size == self._size + self._torn:
            os.ftruncate(self._file, self._size)
        elif size != self._size:
            logger.warning("the provenance log %s has %d bytes, not %d: another process has changed it", self._path, size, self._size)
            self._size = size
        self._torn = 0

    def _missing_end(self) -> bytes:
        """The end of the last line, where others have left it without one."""
        return b"\n" if self._size and os.pread(self._file, 1, self._size - 1) != b"\n" else b""

    def _append(self, line: bytes) -> None:
        """Write the whole line or, where the disk is full or a limit reached, none of it.

        Raises:
            OSError: it was not written.
        """
        try:
            while self._torn < len(line):
                self._torn += os.write(self._file, line[self._torn :])
        except OSError:
            with suppress(OSError):
                self._settle()
            raise
        self._size += len(line)
        self._torn = 0

    def _sync(self, written: list[Future[None]], *, recovered: bool, now: bool) -> None:
        due = self._fsync == "interval" and self._unsynced_since is not None
        due = due and time.monotonic() >= self._unsynced_since + self._fsync_seconds  # type: ignore[operator]
        if self._unsynced_since is not None and (now or due):
            self._unsynced_since = None
            try:
                os.fdatasync(self._file)
            except OSError as fault:
                self._lose(written, fault)
                return
        self._keep(written, recovered=recovered)

    def _rotate(self) -> None:
        """Go on in a new file. Where that fails the log goes on in the one it has, as long again."""
        try:
            self._begin_file()
            self._rotate_at = self._max_bytes
        except OSError as fault:
            self._rotate_at = self._size + self._max_bytes
            logger.error("the provenance log %s is not rotated: %s", self._path, fault.strerror)

    def _begin_file(self) -> None:
        if self._fsync != "never":
            os.fdatasync(self._file)
        # Opened before anything is moved: where that fails, the log goes on in a file that has its name.
        new = self._path.with_name(f"{self._path.name}.new")
        successor = _opened(new)
        try:
            self._move_files(new)
        except OSError:
            os.close(successor)
            raise
        os.close(self._file)
        self._file, self._size = successor, 0
        if self._fsync != "never":
            _sync_folder(self._path.parent)

    def _move_files(self, new: Path) -> None:
        """Give each file the next number, over the oldest one, and the new file the name of the log."""
        numbered = [self._path, *(self._path.with_name(f"{self._path.name}.{number}") for number in range(1, self._files + 1))]
        for older, newer in zip(reversed(numbered), reversed(numbered[:-1]), strict=False):
            if newer.exists():
                newer.replace(older)
        new.replace(self._path)

    def _keep(self, futures: list[Future[None]], *, recovered: bool) -> None:
        with self._count:
            self._written += len(futures)
            news = recovered and self._error is not None
            if recovered:
                self._error = None
        if news:
            logger.warning("the provenance log is written again; %d lines are lost", self._lost)
        for done in futures:
            done.set_result(None)

    def _lose(self, futures: list[Future[None]], fault: OSError) -> None:
        why = str(fault.strerror or fault)
        with self._count:
            self._lost += len(futures)
            news, self._error = why != self._error, why
        if news:
            logger.error("the provenance log %s loses lines: %s; %d so far", self._path, why, self._lost)
        for done in futures:
            done.set_exception(OSError(fault.errno, why))


def _opened(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(file)
        raise
    return file


def _cut_torn_line(file: int, path: Path) -> int:
    """Cut off what follows the last line's end; returns the size that is left."""
    size = end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - _TAIL)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        logger.warning("a crash had left %d bytes of a line at the end of the provenance log %s; they are cut off", size - end, path)
        os.ftruncate(file, end)
    return end


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
