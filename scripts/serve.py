"""Serve the model repository in the background (start, stop, status, addresses) or in this terminal (foreground).

What runs is recorded in .ananke/run/server.json, so that a later call finds it; $ANANKE_RUN_DIR names another folder, for another server.
"""

import argparse
import fcntl
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ananke_server.launch import PROJECT, LaunchError, TritonServer, is_ready
from ananke_server.session import Session

RUN = Path(os.environ.get("ANANKE_RUN_DIR") or PROJECT / ".ananke" / "run")
RECORD = RUN / "server.json"
LOG = RUN / "triton.log"
STOPPING = (signal.SIGINT, signal.SIGTERM)


def main() -> int:
    arguments = parse()
    try:
        return ACTIONS[arguments.action](arguments)
    except LaunchError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("action", choices=list(ACTIONS))
    parser.add_argument("--model", help="a folder or a hub's name")
    parser.add_argument("--model-repository", type=Path, action="append", metavar="FOLDER", help="may be given several times")
    for name in "http", "grpc", "metrics":
        parser.add_argument(f"--{name}-port", type=int)
    parser.add_argument("--timeout", dest="start_timeout", type=float, help="seconds until it must be ready")
    parser.add_argument("triton", nargs="*", metavar="-- ARGUMENT", help="handed to tritonserver as they are")
    return parser.parse_args()


def start(arguments: argparse.Namespace) -> int:
    with alone():
        if record := Record.read():
            return already_there(record)
        server = make_server(arguments, LOG)
        server.start()
        Record.of(server).write()
        print(f"starting: log in {LOG}", flush=True)
        try:
            server.wait_until_ready(server.settings.start_timeout, show_progress)
        except BaseException:
            server.stop(grace=5)
            Record.forget()
            raise
        end_progress()
        print_addresses("serving", Record.of(server))
        return 0


def already_there(record: "Record") -> int:
    if is_ready(record.http):
        print_addresses("already serving", record)
        return 0
    print(f"serve: a server runs (process {record.session.leader}) but is not ready; see {LOG}, or stop it first", file=sys.stderr)
    return 1


def stop(_: argparse.Namespace) -> int:
    record = Record.read()
    if record is None:
        print("not serving")
        return 0
    record.session.end(grace=30.0)
    Record.forget()
    print("stopped")
    return 0


def status(_: argparse.Namespace) -> int:
    record = Record.read()
    if record is None:
        print("not serving")
        return 3
    ready = is_ready(record.http)
    print_addresses("serving" if ready else "running, not ready", record)
    return 0 if ready else 4


def addresses(_: argparse.Namespace) -> int:
    """Lines for a shell that name the server that runs to clients, but for what the environment names already."""
    if record := Record.read():
        for variable, url in (("ANANKE_HTTP_URL", record.http), ("ANANKE_GRPC_URL", record.grpc)):
            if variable not in os.environ:
                print(f"export {variable}={shlex.quote(url)}")
    return 0


def foreground(arguments: argparse.Namespace) -> int:
    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in STOPPING:
        signal.signal(number, end)
    with alone():
        if record := Record.read():
            return already_there(record)
        server = make_server(arguments, None)
        server.start()
        Record.of(server).write()
    try:
        server.wait_until_ready(server.settings.start_timeout)
        attend(server)
    finally:
        server.stop()
        Record.forget()


def attend(server: TritonServer) -> NoReturn:
    """Stay until the server ends, or this program is told to stop and requests under way have had their time."""
    # What a handler raises is lost where it happens to run within a finalizer, so from here on it only takes a note.
    told: list[int] = []
    for number in STOPPING:
        signal.signal(number, lambda number, _: told.append(number))

    def pause(seconds: float) -> int | None:
        time.sleep(seconds)
        return told.pop(0) if told else None

    print_addresses("serving", Record.of(server))
    while server.running:
        reap_orphans(server.session.leader)
        if (lost := server.lost_model()) and server.running:
            raise LaunchError(f"a process of the model {lost} has ended, and Triton starts none in its place: the server is stopped")
        if last := pause(0.5):
            if last == signal.SIGTERM:
                print("told to stop: requests under way may end first", flush=True)
                last = server.drain(server.settings.drain_timeout, pause) or last
            raise SystemExit(128 + last)
    raise LaunchError("the server ended")


def reap_orphans(server: int) -> None:
    """Await the children that have ended, but for the server: a container's first process inherits those whose parents are gone."""
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid != server:
        os.waitpid(ended.si_pid, 0)


def make_server(arguments: argparse.Namespace, log: Path | None) -> TritonServer:
    # Here, as their imports take longer than stopping or status.
    from ananke_server.preflight import require_known_variables, require_startable
    from ananke_server.settings import ConfigError, load_settings

    given = {name: getattr(arguments, name) for name in ("model", "http_port", "grpc_port", "metrics_port", "start_timeout")}
    environment = {f"ANANKE_{name.upper()}": str(value) for name, value in given.items() if value is not None}
    try:
        settings = load_settings(dict(os.environ) | environment)
    except ConfigError as fault:
        raise LaunchError(str(fault)) from None
    for variable in require_known_variables():
        print(f"serve: note: {variable} is no setting, and nothing reads it", file=sys.stderr)
    server = TritonServer(
        model_repositories=arguments.model_repository or [PROJECT / "model_repository"],
        http_port=settings.http_port,
        grpc_port=settings.grpc_port,
        metrics_port=settings.metrics_port,
        environment=environment,
        log_file=log,
        extra_arguments=arguments.triton,
        host=settings.host,
    )
    server.require_free_ports()
    require_startable(settings)
    return server


@dataclass(frozen=True)
class Record:
    """The server that runs, as another process finds it."""

    session: Session
    http: str
    grpc: str
    metrics: str

    @classmethod
    def of(cls, server: TritonServer) -> "Record":
        return cls(server.session, server.http_url, server.grpc_url, server.metrics_url)

    @classmethod
    def read(cls) -> "Record | None":
        """None where nothing runs; what a server that died has left is cleared away."""
        try:
            fields = json.loads(RECORD.read_text())
            record = cls(Session(**fields.pop("session")), **fields)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        if record.session.running:
            return record
        record.session.end(grace=0.0)
        cls.forget()
        return None

    def write(self) -> None:
        partial = RECORD.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=2))
        partial.replace(RECORD)

    @staticmethod
    def forget() -> None:
        RECORD.unlink(missing_ok=True)


@contextmanager
def alone() -> Iterator[None]:
    """Two starts at once would both find nothing running."""
    RUN.mkdir(parents=True, exist_ok=True)
    with (RUN / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def print_addresses(what: str, record: Record) -> None:
    print(f"{what}: HTTP {record.http}, gRPC {record.grpc}, metrics {record.metrics} (process {record.session.leader})", flush=True)


def show_progress(seconds: float) -> None:
    if sys.stdout.isatty():
        print(f"\rstarting: {seconds:.0f} s", end="", flush=True)
    elif round(seconds) % 10 == 0:
        print(f"starting: {seconds:.0f} s", flush=True)


def end_progress() -> None:
    if sys.stdout.isatty():
        print("\r\033[K", end="")


ACTIONS = {"start": start, "stop": stop, "status": status, "addresses": addresses, "foreground": foreground}


if __name__ == "__main__":
    raise SystemExit(main())
