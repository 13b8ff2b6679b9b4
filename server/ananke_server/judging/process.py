"""The judge process: validates what could take any time or stack, in a process of its own that dies rather than hangs."""

from __future__ import annotations

import atexit
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import lru_cache
from typing import IO, Any

from ananke_server.judging.validator import Fault, Unjudgeable, Validator

SECONDS = 3.0
"""Wall time of one judgement, its schema's compilation included."""

_STACK = 512 << 20
_MEMORY = 4 << 30


class JudgeDied(Exception):
    """The judge process ran out of time or crashed over a judgement."""


class JudgeProcess:
    """A Python process that judges one text at a time; started at the first, and again after it died. Safe to call from several threads."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def fault_of(self, schema: str, formats: frozenset[str], output: str) -> Fault | None:
        """What is wrong with an output by a schema's JSON text, or None.

        Waits at most the time limit and a start, a fifth of a second, after the judgements before it.

        Raises:
            JudgeDied: it ran out of time or crashed.
        """
        request = json.dumps([schema, sorted(formats), output]).encode() + b"\n"
        with self._lock:
            answer = self._ask(request)
            status = None if answer else self._bury()
        if not answer:
            why = f"it took more than {self._seconds:g} s" if status == -signal.SIGALRM else f"the validator ended with status {status}"
            raise JudgeDied(why)
        fault = json.loads(answer)
        return None if fault is None else Fault(*fault)

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._bury()

    def _ask(self, request: bytes) -> bytes:
        if self._process is not None and self._process.poll() is not None:
            self._bury()
        if self._process is None:
            command = [sys.executable, "-m", __name__, str(self._seconds)]
            # Triton's Python has the packages on a path of its own making.
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
            return self._process.stdout.readline()
        except OSError:
            return b""

    def _bury(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        # One that is dying keeps the status that it dies of.
        process.kill()
        status = process.wait()
        for pipe in process.stdin, process.stdout:
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        return status


@lru_cache(maxsize=1)
def the_process() -> JudgeProcess:
    """The one judge process of this process."""
    process = JudgeProcess()
    atexit.register(process.close)
    return process


# ---- in the judge process ----


def main() -> None:
    """Answer a line on standard input by a line on standard output, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The default action kills the process at once, whatever native code it is in.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY if most == resource.RLIM_INFINITY else min(_MEMORY, most), most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(_STACK)
    sys.setrecursionlimit(1_000_000)
    worker = threading.Thread(target=_serve, args=(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[1])))
    worker.start()
    worker.join()


def _serve(requests: IO[bytes], answers: IO[bytes], seconds: float) -> None:
    for line in requests:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        answer = json.dumps(_answer(*json.loads(line))).encode() + b"\n"
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(answer)
        answers.flush()


def _answer(schema: str, formats: list[str], output: str) -> list[Any] | None:
    try:
        fault = _validator_of(schema, tuple(formats)).fault_of_text(output)
    except Unjudgeable as error:
        return [f"the output cannot be judged by the schema: {error}", False]
    return None if fault is None else [fault.message, fault.judged]


@lru_cache(maxsize=64)
def _validator_of(schema: str, formats: tuple[str, ...]) -> Validator:
    return Validator(json.loads(schema), formats)


if __name__ == "__main__":
    main()
