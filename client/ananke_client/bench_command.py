"""``ananke bench``: a small load, with a constraint and without, as a client sees it."""

from __future__ import annotations

import os
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.table import Table

from ananke_client import generation_options as given
from ananke_client import server_options as at
from ananke_client.errors import AnankeError
from ananke_client.load import Load, run_load
from ananke_client.proxies import is_this_machine
from ananke_client.terminal import UNAVAILABLE, console, fail, print_json, tell

PROMPT = "A user of a web shop, as JSON: "
SCHEMA = (
    '{"type": "object", "properties": {"name": {"type": "string", "pattern": "^[A-Z][a-z]{2,11}$"},'
    ' "age": {"type": "integer", "minimum": 18, "maximum": 99}, "country": {"enum": ["DE", "FR", "IT", "US"]}},'
    ' "required": ["name", "age", "country"], "additionalProperties": false}'
)
MAX_REQUESTS, MAX_CONCURRENCY = 10_000, 256
SAME_MACHINE = "client and server share this machine, and its processors: this is no benchmark of the server"


def bench(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="the prompt of every request")] = PROMPT,
    requests: Annotated[int, typer.Option(min=1, max=MAX_REQUESTS, help="how many, with the constraint and without")] = 16,
    concurrency: Annotated[int, typer.Option(min=1, max=MAX_CONCURRENCY, help="how many at once")] = 4,
    schema: given.Schema = None,
    regex: given.Regex = None,
    choice: given.Choice = None,
    grammar: given.Grammar = None,
    constraint: given.ConstraintText = None,
    whitespace: given.Whitespace = None,
    unsupported: given.Unsupported = None,
    max_tokens: Annotated[int, typer.Option(help="bound on each output, in tokens")] = 32,
    temperature: given.Temperature = None,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="of the first request; the next has the next")] = 1,
    timeout: at.Timeout = 120.0,
    server: at.Server = None,
    http: at.Http = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Time a bounded number of generations without and with a constraint (a small schema, unless one is given).

    One request of each kind goes first and is not counted, so that compiling is not timed. Exit code 0 if every request was
    answered, 3 if one failed.
    """
    limits = given.constraint_of(
        schema=SCHEMA if not (schema or regex or choice or grammar or constraint) else schema,
        regex=regex,
        choice=choice,
        grammar=grammar,
        constraint=constraint,
        whitespace=whitespace,
        unsupported=unsupported,
    )
    config = given.config_of(max_tokens=max_tokens, temperature=temperature, seed=seed)
    loads = {}
    try:
        with at.client_of(server, http=http, timeout=timeout) as client:
            for name, limit in (("unconstrained", None), ("constrained", limits)):
                client.generate(prompt, limit, config)
                loads[name] = run_load(client, prompt, limit, config, requests=requests, concurrency=concurrency)
    except AnankeError as error:
        fail(at.exit_code_of(error), at.one_line(error))
    note = SAME_MACHINE if on_this_machine(server, http=http) else None
    if as_json:
        figures = {name: json_of(load) for name, load in loads.items()}
        print_json({"requests": requests, "concurrency": concurrency, **figures, "note": note})
    else:
        console().print(_table(loads, f"{requests} requests each, {concurrency} at once"))
        tell(note)
    if failures := [error for load in loads.values() for error in load.failures]:
        fail(UNAVAILABLE, f"{len(failures)} of {2 * requests} requests failed; the first: {at.one_line(failures[0])}")


def json_of(load: Load) -> dict[str, Any]:
    """A load's figures: times in milliseconds, as median and 90th percentile. ``satisfied`` is None without a constraint."""
    unjudged = all(timing.satisfied is None for timing in load.timings)
    return {
        "answered": len(load.timings),
        "failed": len(load.failures),
        "satisfied": None if unjudged else sum(timing.satisfied is True for timing in load.timings),
        "tokens": sum(timing.tokens for timing in load.timings),
        "first_token_ms": _milliseconds(load.first_token()),
        "per_token_ms": _milliseconds(load.per_token()),
        "tokens_per_second": load.tokens_per_second,
    }


def on_this_machine(server: str | None, *, http: bool) -> bool:
    """Whether the server that the options name, or else the environment or the default, is on this machine's loopback."""
    url = server or os.environ.get("ANANKE_HTTP_URL" if http else "ANANKE_GRPC_URL") or "localhost"
    host = urlsplit(url if "://" in url else f"//{url}").hostname or ""
    return is_this_machine(host)


def _table(loads: dict[str, Load], title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="")
    table.add_column("")
    for name in loads:
        table.add_column(name, justify="right")
    figures = [json_of(load) for load in loads.values()]
    for label, key in (("time to first token", "first_token_ms"), ("time a token", "per_token_ms")):
        table.add_row(f"{label}, median (90 %), ms", *(_times(row[key]) for row in figures))
    table.add_row("tokens/s, all together", *(f"{row['tokens_per_second']:.1f}" for row in figures))
    for key in ("tokens", "answered", "satisfied", "failed"):
        table.add_row(key, *("-" if row[key] is None else str(row[key]) for row in figures))
    return table


def _times(times: list[float] | None) -> str:
    return "-" if times is None else f"{times[0]:.1f} ({times[1]:.1f})"


def _milliseconds(seconds: tuple[float, float] | None) -> list[float] | None:
    return None if seconds is None else [1000 * value for value in seconds]
