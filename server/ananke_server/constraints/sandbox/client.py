"""The sandbox's client: compiles in another process, which it starts where there is none yet."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import ananke_client
import ananke_server
from ananke_client.errors import ErrorCode, InternalError, OverloadedError
from ananke_client.report import ConstraintReport, Diagnostic
from ananke_server.constraints.compiled import CompiledConstraint
from ananke_server.constraints.kinds import Kinds
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.sandbox import frames
from ananke_server.constraints.sandbox.folder import SOCKET, locked, own_folder, shared_folder
from ananke_server.constraints.sandbox.options import SandboxOptions

START_SECONDS = 300.0
"""A tokenizer may have to be downloaded first."""
ANSWER_SECONDS = 60.0
"""More than the sandbox's queues can take."""
END_SECONDS = 5.0
SUPERVISOR = "ananke_server.constraints.sandbox.supervisor"
_ATTEMPTS = 3


class SandboxedCompiler:
    """``Compiler.compile`` in killable processes. Safe to call from several threads, and from several processes of one folder.

    What takes more than ``limits.compile_seconds`` or ``limits.compile_mib``, or ends its process, is refused as ``constraint_too_large``.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        *,
        limits: Limits | None = None,
        kinds: Kinds | None = None,
        workers: int = 2,
        shared: bool = False,
    ) -> None:
        """``shared``: with the other processes of the same parent that give the same arguments."""
        self._options = SandboxOptions(model, revision, limits or Limits(), kinds or Kinds(), workers)
        self._shared = shared
        self._folder = shared_folder(self._options.to_text()) if shared else own_folder()
        self._socket = self._folder / SOCKET
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.killed = 0
        """Compilations that were ended since they took too much."""

    def start(self) -> None:
        """Return once the sandbox is ready: within 10 seconds where the model's tokenizer is at hand.

        Raises:
            InternalError: it could not be started; the text says why.
        """
        self._keep(self._connect())

    def close(self) -> None:
        """Let go of the sandbox, which ends with its last client. No other call may be under way."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        if self._process is not None:
            try:
                self._process.wait(0.0 if self._shared else END_SECONDS)
            except subprocess.TimeoutExpired:
                if not self._shared:
                    self._process.kill()
                    self._process.wait()
            self._process = None
        if not self._shared:
            shutil.rmtree(self._folder, ignore_errors=True)

    def compile(self, text: str, client: str = "") -> CompiledConstraint:
        """What ``Compiler.compile`` makes of the text, or its refusal as too large. Clients have fair shares of the sandbox.

        Raises:
            OverloadedError: too many constraints are waiting to be compiled.
            InternalError: the compiler or the sandbox failed.
        """
        data = text.encode("utf-8", errors="surrogatepass")
        if len(data) > self._options.limits.bytes:
            message = f"the constraint has {len(data):,} bytes; at most {self._options.limits.bytes:,} are taken"
            return _refused(Diagnostic(code=ErrorCode.CONSTRAINT_TOO_LARGE, message=message))
        return self._compiled(self._ask(client.encode(errors="replace"), data))

    def _compiled(self, answer: bytes) -> CompiledConstraint:
        try:
            content: Any = json.loads(answer)
            if "fault" in content:
                raise InternalError(f"the compiler failed: {content['fault']}")
            compiled = CompiledConstraint(ConstraintReport.model_validate(content["report"]), content["grammar"])
        except (ValueError, KeyError, TypeError) as fault:
            raise InternalError(f"the sandbox's answer makes no sense: {type(fault).__name__}") from None
        if content.get("killed"):
            with self._lock:
                self.killed += 1
        errors = compiled.report.errors
        if errors and errors[0].code == ErrorCode.OVERLOADED:
            raise OverloadedError(errors[0].message)
        return compiled

    def _ask(self, client: bytes, data: bytes) -> bytes:
        """The sandbox's answer. A sandbox that has gone is started again, and asked again: compiling has no effects."""
        for _ in range(_ATTEMPTS):
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            connection = connection or self._connect()
            try:
                connection.sendall(frames.pack(client) + frames.pack(data))
                answer = frames.receive(connection)
            except TimeoutError:
                connection.close()
                raise InternalError(f"the sandbox has not answered within {ANSWER_SECONDS:g} s") from None
            except OSError:
                answer = None
            if answer is not None:
                self._keep(connection)
                return answer
            self._drop(connection)
        raise InternalError("the sandbox ends before it answers")

    def _keep(self, connection: socket.socket) -> None:
        with self._lock:
            self._idle.append(connection)

    def _drop(self, broken: socket.socket) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in (broken, *idle):
            connection.close()

    def _connect(self) -> socket.socket:
        """A connection that the sandbox has greeted."""
        for _ in range(_ATTEMPTS):
            connection = self._reach()
            connection.settimeout(START_SECONDS)
            try:
                greeting = frames.receive(connection)
            except TimeoutError:
                connection.close()
                raise InternalError(f"the sandbox was not ready within {START_SECONDS:g} s") from None
            except OSError:
                greeting = None
            if greeting is None:
                connection.close()
                continue
            if "fault" in (said := json.loads(greeting)):
                connection.close()
                raise InternalError(said["fault"])
            connection.settimeout(ANSWER_SECONDS)
            return connection
        raise InternalError("the sandbox ends at its start; see the server's log")

    def _reach(self) -> socket.socket:
        with locked(self._folder):
            try:
                return _connected(self._socket)
            except OSError:
                self._launch()
                return _connected(self._socket)

    def _launch(self) -> None:
        if self._process is not None:
            self._process.poll()
        self._socket.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._socket))
            # From here on clients can connect; they are greeted when the tokenizer is loaded.
            listener.listen(1024)
            self._process = subprocess.Popen(
                [sys.executable, "-m", SUPERVISOR, self._options.to_text(), str(self._folder), str(listener.fileno())],
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def _environment() -> dict[str, str]:
    # Triton's Python has the packages on a path of its own making; and BLAS must not start threads where processes fork.
    folders = dict.fromkeys(str(Path(str(package.__file__)).parents[1]) for package in (ananke_client, ananke_server))
    path = os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def _refused(diagnostic: Diagnostic) -> CompiledConstraint:
    return CompiledConstraint(ConstraintReport(accepted=False, errors=[diagnostic]), None)
