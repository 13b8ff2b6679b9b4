"""Triton's server as a child process: found, started, watched and ended, with the standard library alone.

    with TritonServer([Path("model_repository")]) as server:
        server.wait_until_ready(timeout=300)
        ...  # server.http_url, server.grpc_url
"""

import http.client
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ananke_server.cores import KEPT_VARIABLE, TooFewCoresError, kept_off, to_keep
from ananke_server.model_processes import ModelProcesses
from ananke_server.ports import listening_fault
from ananke_server.protection import addresses, large_stacks, protecting_arguments
from ananke_server.repository import served_repository
from ananke_server.session import Session

if TYPE_CHECKING:
    from ananke_server.settings import Settings

# A container has the packages installed, and what lies beside them in a checkout in a folder of its own.
PROJECT = Path(os.environ.get("ANANKE_HOME") or Path(__file__).resolve().parents[2])
DEFAULT_MODEL = PROJECT / ".ananke" / "models" / "SmolLM2-135M-Instruct"
CONFIGURED = PROJECT / ".ananke" / "run" / "repositories"
LOG_LINES_SHOWN = 40
UNTELLING = re.compile(r"[|+]|I\d{4} |\s*$")  # Triton prints a page of tables after the error that ended it
RUNNING_METRICS = ("ananke_requests_running ", "ananke_validations_running ")
QUIET_SECONDS = 1.0  # in which what has just begun shows in the metrics
STUB_TIMEOUT = 180  # seconds that the Python backend waits for the start of a model's process


class LaunchError(RuntimeError):
    """The server could not be started, or died: one line that says why, then the end of its log where there is one."""


@dataclass
class TritonServer:
    """One server, in a session of its own, so that everything it starts can be found again and ended.

    The model repositories decide what is served; `model`, a local folder or a hub's name, is handed to them as ANANKE_MODEL,
    otherwise that of the settings. `environment` is laid over the caller's. Without a log file the server writes to the
    caller's output.
    """

    model_repositories: Sequence[Path]
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    model: str | Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    log_file: Path | None = PROJECT / ".ananke" / "run" / "triton.log"
    extra_arguments: Sequence[str] = ()
    host: str = "127.0.0.1"
    shm_prefix: str = field(default_factory=lambda: f"ananke{secrets.token_hex(4)}_", init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _session: "Session | None" = field(default=None, init=False, repr=False)
    _models: ModelProcesses | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> "TritonServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Return as soon as the process runs. Raises LaunchError where something it needs is missing or a port is taken."""
        if self._process is not None:
            raise LaunchError("this server was started before: stop it first")
        triton = find_triton()
        arguments, environment = self.arguments(triton), self.full_environment(triton)
        self.require_free_ports()
        with ExitStack() as opened:
            output = None
            if self.log_file is not None:
                self.log_file.parent.mkdir(parents=True, exist_ok=True)
                output = opened.enter_context(self.log_file.open("wb"))
            opened.enter_context(large_stacks(self.settings.thread_stack_mib))
            opened.enter_context(kept_off(self._kept_cores))
            self._process = subprocess.Popen(
                arguments, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            self._session = Session.of(self._process.pid, self.shm_prefix)

    def require_free_ports(self) -> None:
        """Raises LaunchError where something listens already on one of the server's ports."""
        http_host, metrics_host = self._addresses
        for host, port in ((http_host, self.http_port), (self.host, self.grpc_port), (metrics_host, self.metrics_port)):
            require_free(host, port)

    def wait_until_ready(self, timeout: float = 600.0, progress: Callable[[float], None] | None = None) -> None:
        """Return once every model is ready. Calls `progress` with the seconds waited, each second.

        Raises LaunchError if the server dies or the time is over; a server that is only slow is left running.
        """
        begin, said = time.monotonic(), 0.0
        while not self.ready():
            if not self.running:
                raise LaunchError(self._with_log(f"the server {self._end()} before it was ready"))
            waited = time.monotonic() - begin
            if waited > timeout:
                raise LaunchError(self._with_log(f"the server was not ready after {timeout:.0f} s"))
            if progress is not None and waited - said >= 1:
                said = waited
                progress(waited)
            time.sleep(0.2)
        self._models = ModelProcesses(self.session.leader)

    def ready(self) -> bool:
        return is_ready(self.http_url)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def http_url(self) -> str:
        return f"{reachable(self._addresses[0])}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        return f"{reachable(self.host)}:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        return f"{reachable(self._addresses[1])}:{self.metrics_port}"

    @cached_property
    def _addresses(self) -> tuple[str, str]:
        return addresses(self.settings, self.host)

    @property
    def session(self) -> "Session":
        """What another process needs to end this server."""
        if self._session is None:
            raise LaunchError("the server was not started")
        return self._session

    def lost_model(self) -> str | None:
        """A model of whose processes one has ended since the server was ready, see ``ModelProcesses``."""
        return None if self._models is None else self._models.lost()

    def drain(self, seconds: float, pause: Callable[[float], int | None] = time.sleep) -> int | None:
        """Return once no request has been under way for a second, the server has ended, or the seconds are over.

        Also as soon as ``pause``, which is given a tenth of a second between two looks, returns something, which is returned.
        Requests that come meanwhile are taken, and leases renewed. A Triton that has been told to stop takes no connection for
        either: what our clients have under way would end with its lease.
        """
        end, quiet_since = time.monotonic() + seconds, None
        while self.running and (now := time.monotonic()) < end:
            if requests_under_way(self.metrics_url) != 0:
                quiet_since = None
            elif quiet_since is None:
                quiet_since = now
            elif now - quiet_since >= QUIET_SECONDS:
                return None
            if told := pause(0.1):
                return told
        return None

    def stop(self, grace: float = 30.0) -> None:
        """End the server and all it started; after `grace` seconds by SIGKILL. Does nothing to one that was not started."""
        if self._process is None:
            return
        self.session.end(grace)
        self._process.wait()
        self._process = self._session = None

    def arguments(self, triton: "Triton") -> list[str]:
        cache_mib = self.settings.response_cache_mib if self._cached else 0
        http_host, metrics_host = self._addresses
        return [
            str(triton.binary),
            f"--id={self.settings.name}",
            *(f"--model-repository={path}" for path in self.repositories()),
            f"--backend-directory={triton.backends}",
            *([f"--cache-directory={triton.caches}"] if triton.caches.is_dir() else []),
            *([f"--cache-config=local,size={cache_mib << 20}"] if cache_mib else []),
            f"--http-address={http_host}",
            f"--http-port={self.http_port}",
            f"--grpc-address={self.host}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-address={metrics_host}",
            f"--metrics-port={self.metrics_port}",
            "--log-verbose=0",
            "--exit-timeout-secs=28",
            # The configurations are complete; completing them would import every model a second time.
            "--disable-auto-complete-config",
            # Two servers of one machine must not share region names, and leftovers must be recognised as ours.
            f"--backend-config=python,shm-region-prefix-name={self.shm_prefix}",
            # 30 s by default: where a busy machine takes longer to start a model's process, Triton 2.51 waits for its end for ever.
            f"--backend-config=python,stub-timeout-seconds={STUB_TIMEOUT}",
            *protecting_arguments(self.settings),
            *self.extra_arguments,
        ]

    @property
    def _cached(self) -> bool:
        """Whether Triton answers for ``validate`` from its own cache: it would do so without asking for an API key."""
        return self.settings.response_cache_mib > 0 and self.settings.api_key_file is None

    @cached_property
    def settings(self) -> "Settings":
        """The settings that the server's models will read. Raises LaunchError where one is wrong."""
        from ananke_server.settings import ConfigError, load_settings  # here, as it takes longer than all a stop or a status needs

        model = {} if self.model is None else {"ANANKE_MODEL": resolve_model(self.model)}
        try:
            return load_settings(dict(os.environ) | model | dict(self.environment))
        except ConfigError as fault:
            raise LaunchError(str(fault)) from None

    @cached_property
    def _kept_cores(self) -> set[int]:
        """The cores of the engine's threads. Raises LaunchError where the settings ask for too many."""
        try:
            return to_keep(self.settings.engine_cores, self.settings.tensor_parallel_size * self.settings.pipeline_parallel_size)
        except TooFewCoresError as fault:
            raise LaunchError(str(fault)) from None

    def repositories(self) -> list[Path]:
        """The repositories to serve, configured as the settings say."""
        served = []
        instances = {"validate": self.settings.validate_instances, "guided_relay": self.settings.relay_instances}
        for path in (path.resolve() for path in self.model_repositories):
            if not path.is_dir():
                raise LaunchError(f"the model repository {path} is not a folder")
            served.append(served_repository(path, CONFIGURED, instances=instances, cached=self._cached))
        return served

    def full_environment(self, triton: "Triton") -> dict[str, str]:
        inherited = dict(os.environ)
        libraries = [str(path) for path in (triton.libraries, libpython_folder()) if path is not None and path.is_dir()]
        environment = inherited | {
            # The Python backend takes its interpreter from the first python3 on PATH.
            "PATH": prepended([str(Path(sys.executable).parent)], inherited.get("PATH", os.defpath)),
            "LD_LIBRARY_PATH": prepended(libraries, inherited.get("LD_LIBRARY_PATH", "")),
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
        }
        model = resolve_model(self.settings.model)
        if Path(model).is_dir():
            environment["HF_HUB_OFFLINE"] = "1"
        environment |= self.environment
        if config := environment.get("ANANKE_CONFIG"):
            environment["ANANKE_CONFIG"] = str(Path(config).expanduser().resolve())
        environment.pop("ANANKE_MANAGEMENT_KEY", None)  # it is Triton's argument, and no model's business
        environment.pop("VLLM_ALLOW_INSECURE_SERIALIZATION", None)  # vLLM's processes would then send each other pickles
        kept = ",".join(map(str, sorted(self._kept_cores)))
        return environment | {"ANANKE_MODEL": model, KEPT_VARIABLE: kept}

    def _end(self) -> str:
        code = self._process.returncode if self._process is not None else None
        if code is None:
            return "was not running"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    def _with_log(self, message: str) -> str:
        if self.log_file is None or not self.log_file.is_file():
            return message
        lines = [line for line in self.log_file.read_text(errors="replace").splitlines() if not UNTELLING.match(line)]
        return "\n".join([f"{message}; the end of {self.log_file}, without tables and notices:", *lines[-LOG_LINES_SHOWN:]])


def resolve_model(model: str | Path) -> str:
    """The model as the server is told it: a folder's absolute path, or a hub's name as it stands.

    Raises:
        LaunchError: it is a path that leads to no folder.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    if folder == DEFAULT_MODEL:
        raise LaunchError(f"there is no model in {DEFAULT_MODEL}: run `make setup`, or name one with ANANKE_MODEL (MODEL=... of make)")
    if isinstance(model, Path) or model.startswith(("/", "./", "../", "~")):
        raise LaunchError(f"the model folder {model} does not exist: name another with ANANKE_MODEL (MODEL=... of make)")
    return model


@dataclass(frozen=True)
class Triton:
    """Where an installation of Triton lies."""

    binary: Path
    backends: Path

    @property
    def caches(self) -> Path:
        return self.backends.parent / "caches"

    @property
    def libraries(self) -> Path:
        """Where `make setup` links libpython, which the Python backend's stub needs."""
        return self.backends.parent / "lib"


def find_triton(project: Path = PROJECT) -> Triton:
    """What $TRITONSERVER and $TRITON_BACKENDS name, what `make setup` made, what PATH has, what NVIDIA's image has: the first there is."""
    binary, backends = os.environ.get("TRITONSERVER"), os.environ.get("TRITON_BACKENDS")
    on_path = shutil.which("tritonserver")
    candidates = [from_root(project / ".ananke" / "triton"), from_root(Path("/opt/tritonserver"))]
    if on_path and backends:
        candidates.insert(1, Triton(Path(on_path), Path(backends)))
    if binary:
        candidates = [Triton(Path(binary), Path(backends) if backends else Path(binary).parent.parent / "backends")]
    for triton in candidates:
        if os.access(triton.binary, os.X_OK) and triton.backends.is_dir():
            return triton
    if binary:
        raise LaunchError(f"$TRITONSERVER={binary} is no program, or {candidates[0].backends} (from $TRITON_BACKENDS) no folder")
    raise LaunchError("no Triton server found: run `make setup`, or name one with $TRITONSERVER and $TRITON_BACKENDS")


def from_root(root: Path) -> Triton:
    return Triton(root / "bin" / "tritonserver", root / "backends")


def libpython_folder() -> Path | None:
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    if folder and name and (Path(folder) / name).exists():
        return Path(folder)
    return None


def is_ready(http_url: str) -> bool:
    # Not urllib, which would send a request for this machine through a proxy of the environment.
    connection = http.client.HTTPConnection(http_url, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def requests_under_way(metrics_url: str) -> float | None:
    """As the server's metrics tell; None where they do not."""
    connection = http.client.HTTPConnection(metrics_url, timeout=5)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode(errors="replace").splitlines()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(RUNNING_METRICS))


def reachable(host: str) -> str:
    """The address at which a server bound to `host` answers from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)


def require_free(host: str, port: int) -> None:
    if (fault := listening_fault(host, port)) is not None:
        cure = "stop what listens there (`make stop`), or set another of http_port, grpc_port and metrics_port"
        raise LaunchError(f"cannot listen on {host}:{port}: {fault.strerror}; {cure}")


def prepended(folders: Sequence[str], path: str) -> str:
    return os.pathsep.join([*folders, *([path] if path else [])])
