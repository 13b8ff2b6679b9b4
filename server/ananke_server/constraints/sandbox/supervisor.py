"""The supervisor: lets workers compile what clients send, and ends those that take too much.

Two lanes, so that nobody waits for a bomb. Every text starts in the quick one, for at most ``QUICK_SECONDS`` of processor time;
what takes longer goes on in the slow lane where that has a place free, else is killed and starts again in its turn. Processor
time decides, since on a busy machine a small constraint may take long; the wall bounds what is held up by nothing but the machine.
Answers are kept for all clients: each process of a server's models asks for what is new to it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Coroutine
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from ananke_client.errors import ErrorCode, OverloadedError
from ananke_client.report import ConstraintReport, Diagnostic
from ananke_server.constraints.cache import BoundedCache
from ananke_server.constraints.compiled import Compiler
from ananke_server.constraints.sandbox import frames
from ananke_server.constraints.sandbox.folder import SOCKET, locked
from ananke_server.constraints.sandbox.options import SandboxOptions
from ananke_server.constraints.sandbox.process import Answer, Death, WorkerProcess
from ananke_server.constraints.sandbox.worker import COMPILED
from ananke_server.fairness.lane import Lane
from ananke_server.heap import settle
from ananke_server.masking.tokenizer import TokenizerSource, tokenizer_source

QUICK_SECONDS = 0.1
QUICK_WALL_SECONDS = 1.0
QUICK_QUEUE = 256
SLOW_PLACES = 4
"""At least: more than small machines have cores, since what takes long is mostly refused in the end, and need not be so in turn."""
SLOW_QUEUE = 8
WALL = 1.5
"""What is not compiled after so many times the limit of processor time is ended, however little of it it had."""
LEAST_SHARE = 0.1
"""The part of that limit that a constraint must have had to be called too large; with less the server is overloaded."""
KNOWN = 4096
KNOWN_BYTES = 32 << 20
FIRST_CLIENT_SECONDS = 30.0
_TICK_SECONDS = 0.005
_FIRST_TEXTS = (
    '{"type": "json_schema", "schema": {"type": "object", "properties": {"a": {"type": "string", "format": "date"}}}}',
    '{"type": "regex", "pattern": "[a-z]+"}',
    '{"type": "grammar", "syntax": "lark", "grammar": "start: \\"a\\""}',
)


class Supervisor:
    """Forks, feeds and kills workers. Belongs to one event loop, in a process without threads: forking needs that."""

    def __init__(self, compiler: Compiler, options: SandboxOptions) -> None:
        self._compiler = compiler
        self._limits = options.limits
        self._spare = options.workers
        self._quick = Lane(options.workers, QUICK_QUEUE)
        self._slow = Lane(max(SLOW_PLACES, options.workers), SLOW_QUEUE)
        self._known: BoundedCache[bytes, bytes] = BoundedCache(KNOWN, KNOWN_BYTES)
        self._idle: list[WorkerProcess] = []
        self._alive: dict[int, WorkerProcess] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        settle()
        self._fill()

    async def compile(self, text: bytes, client: str) -> bytes:
        """The compiled constraint of a text as JSON; a refusal where compiling it had to be ended. Cancelling this ends it too.

        What another has asked for before is known; whoever asks at the same time waits in its own client's turn, and finds it known then.
        """
        digest = sha256(text).digest()
        if (known := self._known.get(digest)) is not None:
            return known
        try:
            answer = await self._compile(digest, text, client)
            if answer.startswith(COMPILED):
                self._known.put(digest, answer, len(answer))
            return answer
        except _BombError as bomb:
            refusal = _too_large(str(bomb))
            self._known.put(digest, refusal, len(refusal))
            return _too_large(str(bomb), killed=True)
        except OverloadedError as overload:
            return _refusal(ErrorCode.OVERLOADED, f"too many constraints wait to be compiled: {overload.message}")
        except _StarvedError:
            message = "the server's processors are too busy to compile the constraint; try again later"
            return _refusal(ErrorCode.OVERLOADED, message)

    async def _compile(self, digest: bytes, text: bytes, client: str) -> bytes:
        run: _Run | None = None
        try:
            async with self._quick.place(client):
                if (known := self._known.get(digest)) is not None:
                    return known
                run = self._begin(text)
                if await run.finished(QUICK_SECONDS, QUICK_WALL_SECONDS):
                    return self._content(run)
                if not self._slow.free:
                    run.worker.kill()
            async with self._slow.place(client):
                if (known := self._known.get(digest)) is not None:
                    return known
                run = self._begin(text) if run.worker.killed else run
                run.worker.yield_cpu()
                seconds = self._limits.compile_seconds
                if await run.finished(seconds, WALL * seconds):
                    return self._content(run, reusable=False)
            if run.cpu_seconds >= seconds:
                raise _BombError(f"compiling it took more than {seconds:g} s of processor time")
            if run.cpu_seconds >= LEAST_SHARE * seconds:
                raise _BombError(f"compiling it took more than {WALL * seconds:g} s")
            raise _StarvedError
        finally:
            if run is not None and not run.task.done():
                run.worker.kill()

    def close(self) -> None:
        """Kill every worker; they are not waited for, since this process ends."""
        self._loop.remove_signal_handler(signal.SIGCHLD)
        for worker in self._alive.values():
            worker.kill()

    def _begin(self, text: bytes) -> _Run:
        worker = self._idle.pop() if self._idle else self._fork()
        self._loop.call_soon(self._fill)
        return _Run(worker, text)

    def _content(self, run: _Run, *, reusable: bool = True) -> bytes:
        """What a run that has finished came to; its worker waits for the next text, or goes."""
        if isinstance(run.task.exception(), frames.FrameTooLargeError):
            run.worker.kill()
            raise _BombError(f"its grammar has more than {frames.MAX_FRAME_BYTES >> 20} MiB")
        outcome = run.task.result()
        if isinstance(outcome, Death):
            if outcome.out_of_memory:
                raise _BombError(f"compiling it took more than {self._limits.compile_mib} MiB")
            raise _BombError(f"compiling it ended the compiler ({outcome.how})")
        if reusable and outcome.fresh and len(self._idle) <= self._spare:
            self._idle.append(run.worker)
        else:
            run.worker.kill()
        return outcome.content

    def _fill(self) -> None:
        while len(self._idle) < self._spare:
            self._idle.append(self._fork())

    def _fork(self) -> WorkerProcess:
        worker = WorkerProcess(self._compiler, self._limits)
        self._alive[worker.pid] = worker
        return worker

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                worker = self._alive.pop(ended[0])
                worker.note_end(ended[1])
                if worker in self._idle:
                    self._idle.remove(worker)
                    self._loop.call_soon(self._fill)


class _BombError(Exception):
    """A compilation took too much, and what of."""


class _StarvedError(Exception):
    """A compilation had too little processor time to say so."""


class _Run:
    """A worker at work on a text."""

    def __init__(self, worker: WorkerProcess, text: bytes) -> None:
        self.worker = worker
        self.task: asyncio.Task[Answer | Death] = asyncio.create_task(worker.compile(text))
        self._begun = asyncio.get_running_loop().time()
        self._cpu_begun = worker.cpu_seconds

    @property
    def cpu_seconds(self) -> float:
        """Processor time that the text has had so far."""
        return self.worker.cpu_seconds - self._cpu_begun

    async def finished(self, cpu_seconds: float, seconds: float) -> bool:
        """Whether it finishes before it has had so much processor time, and so long after its begin."""
        end = self._begun + seconds
        while not self.task.done():
            left = min(cpu_seconds - self.cpu_seconds, end - asyncio.get_running_loop().time())
            if left <= 0:
                return False
            await asyncio.wait({self.task}, timeout=max(left, _TICK_SECONDS))
        return True


def _too_large(what: str, *, killed: bool = False) -> bytes:
    return _refusal(ErrorCode.CONSTRAINT_TOO_LARGE, f"the constraint is too large: {what}", killed=killed)


def _refusal(code: ErrorCode, message: str, *, killed: bool = False) -> bytes:
    report = ConstraintReport(accepted=False, errors=[Diagnostic(code=code, message=message)])
    return json.dumps({"report": report.model_dump(mode="json"), "grammar": None, "killed": killed}).encode()


async def serve(listener: socket.socket, supervisor: Supervisor | None, greeting: bytes) -> None:
    """Answer clients until the last has gone. Without a supervisor, tell them why and close."""
    clients: set[asyncio.StreamWriter] = set()
    over = asyncio.Event()

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.add(writer)
        try:
            writer.write(frames.pack(greeting))
            while supervisor is not None and (client := await frames.read(reader)) is not None:
                text = await frames.read(reader)
                answer = None if text is None else await _unless_gone(reader, supervisor.compile(text, client.decode()))
                if answer is None:
                    break
                writer.write(frames.pack(answer))
                await writer.drain()
        except (ConnectionError, frames.FrameTooLargeError):
            pass
        finally:
            writer.close()
            clients.discard(writer)
            if not clients:
                over.set()

    def nobody_came() -> None:
        if not clients:
            over.set()

    server = await asyncio.start_unix_server(attend, sock=listener.dup())
    asyncio.get_running_loop().call_later(FIRST_CLIENT_SECONDS, nobody_came)
    await over.wait()
    server.close()


async def _unless_gone(reader: asyncio.StreamReader, work: Coroutine[Any, Any, bytes]) -> bytes | None:
    """What the work comes to; None, and the work cancelled, if the client closes or speaks before its turn."""
    working, gone = asyncio.create_task(work), asyncio.create_task(reader.read(1))
    await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
    done = working.done()
    for task in (working, gone):
        task.cancel()
    # A reader serves one at a time: the next must not find this one still there.
    await asyncio.wait({working, gone})
    return working.result() if done else None


async def supervise(listener: socket.socket, options: SandboxOptions, source: TokenizerSource) -> None:
    """Serve as the sandbox of one tokenizer until the last client has gone."""
    compiler = Compiler(source.load(), options.limits, options.kinds)
    # What is set up at first use is set up once, and not in every worker.
    for text in _FIRST_TEXTS:
        compiler.compile(text)
    supervisor = Supervisor(compiler, options)
    try:
        await serve(listener, supervisor, json.dumps({"process": os.getpid()}).encode())
    finally:
        supervisor.close()


def load_source(options: SandboxOptions) -> TokenizerSource:
    """The tokenizer, as a process that ends at once has read it: transformers and torch would take 300 MB and bring threads.

    Raises:
        RuntimeError: it cannot be loaded.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            source = tokenizer_source(options.model, options.revision)
            content = {"text": source.text, "ends": source.ends}
        except BaseException as fault:
            traceback.print_exc()
            content = {"fault": f"{type(fault).__name__}: {fault}"[:2000]}
        with open(write_end, "w", encoding="utf-8") as pipe:
            json.dump(content, pipe)
        os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    content = json.loads(said or '{"fault": "the process that loads it has died"}')
    if "fault" in content:
        raise RuntimeError(f"the tokenizer of {options.model} could not be loaded: {content['fault']}")
    return TokenizerSource(content["text"], tuple(content["ends"]))


def main() -> None:
    """``supervisor OPTIONS FOLDER LISTENER``: the options as JSON, and the descriptor of a socket that listens in the folder."""
    options, folder, listener = SandboxOptions.from_text(sys.argv[1]), Path(sys.argv[2]), socket.socket(fileno=int(sys.argv[3]))
    # Ctrl-C is for the clients, with the last of which this ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        source = load_source(options)
    except Exception as fault:
        asyncio.run(serve(listener, None, json.dumps({"fault": str(fault)}).encode()))
    else:
        asyncio.run(supervise(listener, options, source))
    # Who connected since then finds this end closed, and starts another sandbox: the lock is for that.
    with locked(folder), suppress(FileNotFoundError):
        (folder / SOCKET).unlink(missing_ok=True)
        folder.rmdir()
    listener.close()


if __name__ == "__main__":
    main()
