"""``ananke health``: whether a server can generate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Annotated

import typer
from rich.text import Text

from ananke_client import server_options as at
from ananke_client.client import InferenceClient
from ananke_client.config import GenerationConfig
from ananke_client.constraint import ConstraintSpec
from ananke_client.errors import AnankeError, UnsupportedConstraintError
from ananke_client.health import EngineStatus, HealthStatus
from ananke_client.rendering import printable
from ananke_client.terminal import REFUSED, UNAVAILABLE, USAGE, console, fail, print_json

TIMEOUT = 10.0


def health(
    server: at.Server = None,
    http: at.Http = False,
    generate: Annotated[bool, typer.Option("--generate", help="have it generate a word within a constraint too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Tell whether a server is live and can generate, and its engine's status; with --generate, whether it does generate.

    Exit code 0 if so, 1 if it is live but not ready or does not generate, 3 if it is out of reach.
    """
    trial = None
    try:
        with at.client_of(server, http=http, timeout=TIMEOUT) as client:
            status = client.health_check()
            if generate and status.ready:
                trial = _try(client)
    except AnankeError as error:
        fail(USAGE, at.one_line(error))
    able = status.ready and (trial is None or trial.generates)
    if as_json:
        print_json(asdict(status) | ({"trial": trial and asdict(trial)} if generate else {}))
    else:
        _show(status, trial)
    raise typer.Exit(0 if able else REFUSED if status.live else UNAVAILABLE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One generation of a word: whether it came, in how many seconds, and if not, why."""

    generates: bool
    seconds: float
    error: str | None = None


def _try(client: InferenceClient) -> Trial:
    """The whole way of a request: validate, a mask, the engine, the judge."""
    begin = time.monotonic()
    config = GenerationConfig(max_tokens=4, temperature=0)
    try:
        try:
            client.generate("x", ConstraintSpec.choice("a", "b"), config)
        except UnsupportedConstraintError:  # the server's settings may have that kind switched off
            client.generate("x", None, config)
    except AnankeError as error:
        return Trial(generates=False, seconds=time.monotonic() - begin, error=at.one_line(error))
    return Trial(generates=True, seconds=time.monotonic() - begin)


def _show(status: HealthStatus, trial: Trial | None) -> None:
    out = console()
    out.print(_line("live", status.live, f"Triton {status.server_version}" if status.server_version else ""), soft_wrap=True)
    out.print(_line("ready", status.ready), soft_wrap=True)
    for model, ready in status.models.items():
        out.print(_line(f"  {model}", ready), soft_wrap=True)
    if trial is not None:
        out.print(_line("generates", trial.generates, f"{trial.seconds:.2f} s"), soft_wrap=True)
    if status.status is not None:
        for name, value in _facts(status.status):
            out.print(Text(printable(f"{name:14} {value}")), soft_wrap=True)
    for error in (status.error, trial and trial.error):
        if error:
            out.print(Text(printable(error)), soft_wrap=True)


def _facts(status: EngineStatus) -> Iterator[tuple[str, str]]:
    restarts = f", started again {status.restarts} times" if status.restarts else ""
    yield "engine", f"{status.state} on {status.device}, up {timedelta(seconds=round(status.uptime_seconds))}{restarts}"
    yield "model", status.model + (f" at {status.revision}" if status.revision else "")
    yield "requests", f"{status.pending} of at most {status.max_pending}: {status.running} in the batch, {status.waiting} waiting for it"
    yield "KV cache", f"{status.kv_cache_usage:.1%} in use"
    yield "versions", ", ".join(f"{name} {version}" for name, version in status.versions.items())
    if status.lost_model is not None:
        yield "lost", f"a process of the model {status.lost_model}: the server has to be started again"
    yield "last error", "none" if status.last_error is None else f"{status.last_error.code} at {status.last_error.at}"


def _line(name: str, yes: bool, more: str = "") -> Text:
    line = Text(f"{name:14} ").append("yes" if yes else "no", style="green" if yes else "bold red")
    return line.append(f"  {more}" if more else "")
