"""A worker: a forked process that compiles one text at a time, under limits that the kernel enforces."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import socket
import traceback
from contextlib import suppress
from pathlib import Path

from ananke_server.constraints.compiled import Compiler
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.sandbox import frames

OUT_OF_MEMORY = 77
"""The exit status of a worker that Python told it is out of memory."""
STACK_BYTES = 4 << 20
"""Half of what a thread of the engine has by default: what fits here does not overflow there."""
FRESH, WORN = b"\0", b"\1"
"""An answer's first byte: whether the worker may take another text."""
COMPILED = b'{"report": '
"""How the rest begins where it is no fault."""

_CHANNEL = 3
_WORN_AFTER_TEXTS = 500
_WORN_BY_BYTES = 64 << 20
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def run(channel: socket.socket, errors: int, compiler: Compiler, limits: Limits) -> None:
    """Be a worker until the channel closes; to call in a process just forked. Never returns."""
    status = 1
    try:
        status = _serve(_isolate(channel, errors), compiler, limits)
    except MemoryError:
        status = OUT_OF_MEMORY
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _isolate(channel: socket.socket, errors: int) -> socket.socket:
    """Leave the supervisor's descriptors, signals and garbage behind; returns the channel."""
    gc.freeze()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(errors, 2)
    own = os.dup(channel.fileno())
    os.dup2(own, _CHANNEL)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > _CHANNEL:
            with suppress(OSError):
                os.close(descriptor)
    return socket.socket(fileno=_CHANNEL)


def _serve(channel: socket.socket, compiler: Compiler, limits: Limits) -> int:
    base = data_bytes()
    _limit(base + limits.compile_mib * (1 << 20))
    for count in range(1, _WORN_AFTER_TEXTS + 1):
        text = frames.receive(channel)
        if text is None:
            return 0
        answer = _answer(compiler, text.decode("utf-8", errors="surrogatepass"))
        worn = count == _WORN_AFTER_TEXTS or data_bytes() > base + _WORN_BY_BYTES
        channel.sendall(frames.pack((WORN if worn else FRESH) + answer))
        if worn:
            return 0
    return 0


def _limit(data_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))
    resource.setrlimit(resource.RLIMIT_STACK, (STACK_BYTES, STACK_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Should the whole machine run out of memory, a worker is what it can best do without.
    Path("/proc/self/oom_score_adj").write_text("1000")


def _answer(compiler: Compiler, text: str) -> bytes:
    try:
        compiled = compiler.compile(text)
        content = {"report": compiled.report.model_dump(mode="json"), "grammar": compiled.grammar}
    except MemoryError:
        raise
    except Exception as fault:
        traceback.print_exc()
        content = {"fault": f"{type(fault).__name__}: {fault}"[:1000]}
    return json.dumps(content).encode()


def data_bytes() -> int:
    """The memory that RLIMIT_DATA counts: private, writable, the stack aside."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    raise OSError("/proc/self/status has no VmData")
