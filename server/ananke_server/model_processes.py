"""The processes in which a Triton runs its models in Python, and whether one of them has ended."""

from __future__ import annotations

from pathlib import Path

from ananke_server.session import processes

_STUB = "triton_python_backend_stub"


class ModelProcesses:
    """The processes in which a Triton runs models, of which it starts none in the place of one that has ended.

    What that one had under way never ends, and what comes to it is refused.
    """

    def __init__(self, triton: int) -> None:
        self._triton = triton
        self._seen = self.running()

    def running(self) -> dict[int, str]:
        """Those that run now, by number, and the model of each."""
        found = {}
        for process in processes():
            if process.parent == self._triton and not process.ended and (command := _command_line(process.pid))[0].endswith(_STUB):
                found[process.pid] = Path(command[1]).parts[-3]
        return found

    def lost(self) -> str | None:
        """A model of whose processes one has ended that ran when this was made, or was asked."""
        running = self.running()
        self._seen |= running
        lost = self._seen.keys() - running.keys()
        return self._seen[min(lost)] if lost else None


def _command_line(pid: int) -> list[str]:
    """A process's arguments, the first of which is the program; empty ones where there is no such process any more."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return [""]
