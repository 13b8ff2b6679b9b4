"""``ananke health``: whether a server can generate."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from ananke_client import server_options as at
from ananke_client.errors import AnankeError
from ananke_client.health import HealthStatus
from ananke_client.rendering import printable
from ananke_client.terminal import REFUSED, UNAVAILABLE, USAGE, console, fail, print_json

TIMEOUT = 10.0


def health(
    server: at.Server = None,
    http: at.Http = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Tell whether a server is live, and its models are ready.

    Exit code 0 if it is ready, 1 if it is live but not ready, 3 if it is out of reach.
    """
    try:
        with at.client_of(server, http=http, timeout=TIMEOUT) as client:
            status = client.health_check()
    except AnankeError as error:
        fail(USAGE, at.one_line(error))
    if as_json:
        print_json(asdict(status))
    else:
        _show(status)
    raise typer.Exit(0 if status.ready else REFUSED if status.live else UNAVAILABLE)


def _show(status: HealthStatus) -> None:
    out = console()
    out.print(_line("live", status.live, f"Triton {status.server_version}" if status.server_version else ""), soft_wrap=True)
    out.print(_line("ready", status.ready), soft_wrap=True)
    for model, ready in status.models.items():
        out.print(_line(f"  {model}", ready), soft_wrap=True)
    if status.error:
        out.print(Text(printable(status.error)), soft_wrap=True)


def _line(name: str, yes: bool, more: str = "") -> Text:
    line = Text(f"{name:14} ").append("yes" if yes else "no", style="green" if yes else "bold red")
    return line.append(f"  {more}" if more else "")
