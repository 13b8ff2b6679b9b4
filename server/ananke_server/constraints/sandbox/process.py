"""A worker as its supervisor sees it: forked, given a text, awaited, killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass

from ananke_server.constraints.compiled import Compiler
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.sandbox import frames, worker

_ERRORS_KEPT = 8192
_END_SECONDS = 0.5
_NICENESS = 5
_PROCESS_CLOCK = 2
"""Linux's ``CPUCLOCK_SCHED``: with a process's number it makes the number of its clock."""
_OUT_OF_MEMORY = b"memory allocation of"
"""How Rust's abort begins where an allocation failed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker made of a text: its JSON, and whether it may take another."""

    content: bytes
    fresh: bool


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended instead of answering."""

    out_of_memory: bool
    how: str


class WorkerProcess:
    """One worker. Every method belongs to the event loop of a process without threads."""

    def __init__(self, compiler: Compiler, limits: Limits) -> None:
        """Fork. Costs a few milliseconds."""
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            worker.run(theirs, write_end, compiler, limits)
        theirs.close()
        os.close(write_end)
        os.set_blocking(read_end, False)
        self.killed = False
        self._channel = ours
        self._errors = read_end
        self._said = b""
        self._cpu_seconds = 0.0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(read_end, self._listen)
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def compile(self, text: bytes) -> Answer | Death:
        """What becomes of a text. Takes as long as it takes: whoever awaits this sets the bound, and kills.

        Raises:
            FrameTooLargeError: the answer is too large to take; the worker has to be killed.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection(sock=self._channel)
        reader, writer = self._streams
        with suppress(ConnectionError):
            writer.write(frames.pack(text))
            await writer.drain()
        answer = await frames.read(reader)
        if answer:
            return Answer(answer[1:], fresh=answer[:1] == worker.FRESH)
        # It is ending by itself, with a status that says why; or it has merely closed its channel.
        await asyncio.wait({self._ended}, timeout=_END_SECONDS)
        self.kill()
        return self._death(await self._ended)

    @property
    def cpu_seconds(self) -> float:
        """Processor time that it has had so far, to a tick of the kernel's."""
        with suppress(OSError):
            self._cpu_seconds = time.clock_gettime((~self.pid << 3) | _PROCESS_CLOCK)
        return self._cpu_seconds

    def yield_cpu(self) -> None:
        """Let other processes go before it. There is no way back, so the worker is for this text alone."""
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, self.pid, _NICENESS)

    def kill(self) -> None:
        """End it, whatever it is doing; returns at once."""
        self.killed = True
        if not self._ended.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def note_end(self, status: int) -> None:
        """The process has ended, with this status of ``waitpid``."""
        self._listen()
        self._loop.remove_reader(self._errors)
        os.close(self._errors)
        if self._streams is None:
            self._channel.close()
        else:
            self._streams[1].close()
        if not self._ended.done():
            self._ended.set_result(status)

    def _listen(self) -> None:
        with suppress(BlockingIOError):
            while said := os.read(self._errors, 65536):
                self._said = (self._said + said)[:_ERRORS_KEPT]
            self._loop.remove_reader(self._errors)

    def _death(self, status: int) -> Death:
        out_of_memory = _OUT_OF_MEMORY in self._said or (os.WIFEXITED(status) and os.WEXITSTATUS(status) == worker.OUT_OF_MEMORY)
        how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
        return Death(out_of_memory, how)
