"""The terminal: what the commands of ``ananke`` read, print and exit with."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from ananke_client.rendering import printable

REFUSED, USAGE, UNAVAILABLE, BROKEN_PIPE = 1, 2, 3, 141
"""Exit codes: refused or not satisfied; wrong usage or an unreadable file; no verdict; nobody reads the output any more, told as a
shell tells SIGPIPE. 0 is accepted, satisfied or verified."""


def read_bytes(file: str) -> bytes:
    """A file's bytes, or those of standard input for ``-``; exits where it cannot be read."""
    if file == "-" and sys.stdin is None:
        fail(USAGE, "standard input is closed")
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        fail(USAGE, f"{file}: {error.strerror or error}")
    except ValueError as error:
        fail(USAGE, f"{file!r}: {error}")


def read_text(file: str) -> str:
    """A file's text; exits where it cannot be read or is not UTF-8."""
    data = read_bytes(file)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        fail(USAGE, f"{file}: not UTF-8 text: byte {error.start} is {data[error.start]:#04x}")


def only_one_from_input(**files: str | Sequence[str] | None) -> None:
    """Exits where more than one file is standard input; an option that is repeatable has a list, an argument's name is in capitals."""
    taken = []
    for name, given in files.items():
        shown = name if name.isupper() else f"--{name.replace('_', '-')}"
        taken += [shown for file in ([given] if isinstance(given, str) else given or ()) if file == "-"]
    if len(taken) > 1:
        fail(USAGE, f"one of {' and '.join(taken)} can be standard input, not {'both' if len(taken) == 2 else 'all'}")


def print_json(content: dict[str, Any]) -> None:
    """Print one JSON object; a ``note`` without a value is left out."""
    print(json.dumps({name: value for name, value in content.items() if name != "note" or value}))


def console() -> Console:
    """Standard output."""
    return _Console(highlight=False, markup=False)


def tell(note: str | None) -> None:
    """A note on standard error, in one line; what a server or a model put into it cannot steer the terminal."""
    if note:
        _Console(stderr=True, highlight=False, markup=False).print(Text(f"note: {printable(note)}", style="dim"), soft_wrap=True)


def fail(status: int, message: str) -> NoReturn:
    """Say why on standard error, in one line that cannot steer the terminal, and exit."""
    _Console(stderr=True, highlight=False, markup=False).print(Text(f"ananke: {printable(message)}"), soft_wrap=True)
    raise typer.Exit(status)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would exit with 1, which means that something was refused."""
        raise
