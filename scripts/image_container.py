"""An image and a container made of it: what `buildah` has mounted, run by bubblewrap as a container's runtime would run it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARED_MEMORY_BYTES = 1 << 30  # what docs/DEPLOYMENT.md asks for
MODELS = "/mnt"


class Image:
    """The files and the configuration of an image."""

    def __init__(self, root: Path, inspected: dict[str, Any]) -> None:
        self.root = root
        self.config: dict[str, Any] = inspected["Docker"]["config"]
        self._history: list[dict[str, Any]] = inspected["Docker"]["history"]
        self._manifest: dict[str, Any] = json.loads(inspected["Manifest"])

    @property
    def environment(self) -> dict[str, str]:
        return dict(variable.split("=", 1) for variable in self.config["Env"])

    @property
    def health_command(self) -> list[str]:
        command: list[str] = self.config["Healthcheck"]["Test"][1:]
        return command

    def layers(self) -> list[tuple[int, str]]:
        """Each layer's size in bytes and the instruction that made it, the lowest first."""
        made = [entry.get("created_by", "") for entry in self._history if not entry.get("empty_layer")]
        return list(zip((layer["size"] for layer in self._manifest["layers"]), made, strict=True))

    def files(self) -> Iterator[Path]:
        """Every regular file."""
        for folder, _, names in os.walk(self.root):
            for path in (Path(folder, name) for name in names):
                if stat.S_ISREG(path.lstat().st_mode):
                    yield path

    def writable_by(self, uid: int) -> Iterator[Path]:
        """The folders and files that this user may write, but for sticky folders such as /tmp."""
        for folder, folders, names in os.walk(self.root):
            for path in (Path(folder, name) for name in folders + names):
                status = path.lstat()
                mine = uid in (status.st_uid, status.st_gid)
                everyones = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
                if (mine or everyones) and (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                    yield path

    def name(self, path: Path) -> str:
        """The path as a process in the container sees it."""
        return f"/{path.relative_to(self.root)}"


@dataclass(frozen=True)
class Process:
    """A process in a container; ``pid`` is the container's number for it."""

    pid: int
    state: str
    uids: tuple[int, ...]
    capabilities: int
    command: str


class Container:
    """A container that runs from entering the block to the end of its first process, or of the block."""

    def __init__(self, image: Image, volumes: Path, *, model: Path) -> None:
        self.image = image
        self._volumes = volumes.resolve()
        self._model = model
        self.log = volumes.parent / "container.log"
        self._bwrap: subprocess.Popen[bytes] | None = None
        self._first = 0
        self._namespace = ""

    def __enter__(self) -> Container:
        reader, writer = os.pipe()
        environment = self.image.environment | {"ANANKE_MODEL": f"{MODELS}/{self._model.name}"}
        command = ["bwrap", "--info-fd", str(writer), *self._sandbox(), *self._as_user(environment), *self.image.config["Entrypoint"]]
        with self.log.open("wb") as log:
            self._bwrap = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=[writer])
        os.close(writer)
        with open(reader) as info:
            self._first = json.load(info)["child-pid"]
        self._namespace = os.readlink(f"/proc/{self._first}/ns/pid")
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            assert self._bwrap is not None
            self.signal(signal.SIGKILL)
            self._bwrap.wait()

    @property
    def running(self) -> bool:
        return self._bwrap is not None and self._bwrap.poll() is None

    def execute(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as its user and with the image's environment, like `docker exec`."""
        return subprocess.run(self._inside(command), capture_output=True, text=True, timeout=300)

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Begin a command in the container; its output is a pipe."""
        return subprocess.Popen(self._inside(command), stdout=subprocess.PIPE, bufsize=0)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._first, number)

    def wait(self, seconds: float) -> int:
        """The first process's exit status, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        assert self._bwrap is not None
        return self._bwrap.wait(seconds)

    def processes(self) -> Iterator[Process]:
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and os.readlink(entry / "ns" / "pid") == self._namespace:
                    yield _read(entry)

    def _sandbox(self) -> list[str]:
        arguments = ["--die-with-parent", "--as-pid-1", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--clearenv"]
        arguments += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
        arguments += ["--ro-bind", str(self.image.root), "/", "--proc", "/proc", "--dev", "/dev", "--ro-bind", "/sys", "/sys"]
        arguments += ["--perms", "1777", "--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm", "--perms", "1777", "--tmpfs", "/tmp"]
        for place in [*self.image.config["Volumes"], self.image.environment["HOME"]]:
            arguments += ["--bind", str(self._volume(place)), place]
        arguments += ["--tmpfs", MODELS, "--ro-bind", str(self._model), f"{MODELS}/{self._model.name}"]
        return [*arguments, "--chdir", self.image.config["WorkingDir"]]

    def _volume(self, place: str) -> Path:
        """A volume as docker makes it: empty, with the owner and the mode that the folder has in the image."""
        volume, status = self._volumes / Path(place).name, (self.image.root / place.lstrip("/")).stat()
        volume.mkdir(parents=True)
        os.chown(volume, status.st_uid, status.st_gid)
        volume.chmod(stat.S_IMODE(status.st_mode))
        return volume

    def _inside(self, command: Sequence[str]) -> list[str]:
        entered = ["nsenter", f"--target={self._first}", "--mount", "--pid", "--net", "--ipc", "--uts", "--root", "--wd=/"]
        return [*entered, *self._as_user(self.image.environment), *command]

    def _as_user(self, environment: dict[str, str]) -> list[str]:
        user, group = self.image.config["User"].split(":")
        dropped = ["--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
        variables = [f"{name}={value}" for name, value in environment.items()]
        return ["setpriv", "--reuid", user, "--regid", group, *dropped, "env", "-i", *variables]


def _read(entry: Path) -> Process:
    fields = dict(line.split(":\t", 1) for line in (entry / "status").read_text().splitlines() if ":\t" in line)
    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    uids = tuple(int(uid) for uid in fields["Uid"].split())
    return Process(int(fields["NSpid"].split()[-1]), fields["State"][0], uids, int(fields["CapEff"], 16), command)
