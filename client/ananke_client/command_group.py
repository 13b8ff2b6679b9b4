"""The command group of ``ananke``: how a command ends that meets what nothing foresaw, and one whose reader goes away."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from typer.core import TyperGroup

from ananke_client.terminal import BROKEN_PIPE, UNAVAILABLE, USAGE, fail


class CommandGroup(TyperGroup):
    """Ends with one line and an exit code that is documented, whatever happens."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """As Typer's; ``--help`` prints here."""
        with _ending():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """As Typer's."""
        with _ending():
            return super().invoke(ctx)


def open_streams() -> None:
    """Make the process's standard streams such that nothing that is printed fails for its characters; exits where there is no output."""
    # A descriptor that was closed would be given to the next file or socket, and what a library prints would go there.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stdout is None:
        with suppress(typer.Exit):
            fail(USAGE, "standard output is closed: give > /dev/null where only the exit code is wanted")
        sys.exit(USAGE)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


@contextmanager
def _ending() -> Iterator[None]:
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Else the interpreter would try once more to flush, as it ends, and say that it failed.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None
    except Exception as error:
        # Typer's own, of wrong usage and of exits, know their code.
        if isinstance(error, typer.Abort) or hasattr(error, "exit_code") or os.environ.get("ANANKE_TRACEBACK"):
            raise
        said = f"{type(error).__name__}: {error}"
        fail(UNAVAILABLE, f"a fault of ananke, whose traceback ANANKE_TRACEBACK=1 shows: {' '.join(said.split()):.1000}")
