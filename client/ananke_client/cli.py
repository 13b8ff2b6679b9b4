"""Command line: the commands of ``ananke``.

``ananke generate`` prints a text within a constraint, ``ananke validate`` tells what becomes of a constraint, ``ananke check``
whether a text satisfies one, ``ananke verify`` whether an output's provenance holds, ``ananke replay`` whether the model gives
the output again, ``ananke health`` whether a server is ready, and ``ananke bench`` how fast it answers.

Exit codes: 0 accepted, satisfied, verified, equal or ready; 1 refused, not satisfied, failed, different or not ready; 2 wrong usage or
an unreadable file; 3 no answer or no verdict (no server extra, a server out of reach, a deadline that passed, a tokenizer that does not
load, a fault of the compiler or of ``ananke`` itself, no public key or no signature); 130 ended by Ctrl-C; 141 nobody reads the output.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ananke_client.bench_command import bench
from ananke_client.command_group import CommandGroup, open_streams
from ananke_client.errors import AnankeError, RequestError
from ananke_client.extras import install_command
from ananke_client.generate_command import generate
from ananke_client.health_command import health
from ananke_client.rendering import printable, show_report
from ananke_client.replay_command import replay
from ananke_client.report import ConstraintReport
from ananke_client.server_options import client_of
from ananke_client.source import Kind, Source
from ananke_client.terminal import REFUSED, UNAVAILABLE, USAGE, console, fail, only_one_from_input, print_json, read_text, tell
from ananke_client.verify_command import verify
from ananke_client.version import __version__

if TYPE_CHECKING:
    from ananke_server.constraints import CompiledConstraint
    from ananke_server.offline import OfflineCompiler

SERVER_TIMEOUT = 60.0
BYTES_NOTE = "no model given or found: one token a byte, so special tokens and token masks are not judged as the model's would be"

HELP = (__doc__ or "").replace("``", "")

app = typer.Typer(cls=CommandGroup, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, help=HELP)

_Kind = Annotated[Kind, typer.Option("--kind", "-k", help="what FILE holds: a constraint as JSON, or a bare schema, pattern or grammar")]
_Whitespace = Annotated[str | None, typer.Option(help="of a schema: flexible or compact")]
_Unsupported = Annotated[str | None, typer.Option(help="of a schema: refuse or verify what masks cannot express")]
_Model = Annotated[str | None, typer.Option(help="folder or hub's name of the tokenizer; else $ANANKE_MODEL, the set-up's model, or bytes")]
_Json = Annotated[bool, typer.Option("--json", help="print one JSON object")]


def _show_version(asked: bool) -> None:
    if asked:
        print(f"ananke {__version__}")
        raise typer.Exit


@app.callback()
def options(version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_show_version, help="print it")] = False) -> None:
    """Options of ``ananke`` itself."""


@app.command()
def validate(
    file: Annotated[str, typer.Argument(metavar="FILE", help="the constraint; - reads standard input")],
    kind: _Kind = Kind.CONSTRAINT,
    whitespace: _Whitespace = None,
    unsupported: _Unsupported = None,
    model: _Model = None,
    server: Annotated[str | None, typer.Option(metavar="URL", help="ask a running server, as generate does")] = None,
    as_json: _Json = False,
) -> None:
    """Tell whether a constraint is enforced, with which guarantee, and what has to change where it is not."""
    source = _source(file, kind, whitespace, unsupported)
    if server is not None:
        report, note = _ask(server, source.constraint), None
    else:
        compiler, note = _offline(model)
        report = _compile(compiler, source.constraint).report
    if as_json:
        print_json(_json_of(report) | {"note": note})
    else:
        show_report(console(), file, source, report)
        tell(note)
    raise typer.Exit(0 if report.accepted else REFUSED)


@app.command()
def check(
    constraint: Annotated[str, typer.Option(metavar="FILE", help="the constraint; - reads standard input")],
    output: Annotated[str, typer.Option(metavar="FILE", help="the text to judge, to the last byte; - reads standard input")],
    kind: _Kind = Kind.CONSTRAINT,
    whitespace: _Whitespace = None,
    unsupported: _Unsupported = None,
    model: _Model = None,
    as_json: _Json = False,
) -> None:
    """Tell whether a text satisfies a constraint, by the mask's own path and by the validator, which judges JSON schemas alone.

    Exit code 0 if the mask says so, and the validator where there is one.
    """
    only_one_from_input(constraint=constraint, output=output)
    source = _source(constraint, kind, whitespace, unsupported)
    text = read_text(output)
    compiler, note = _offline(model)
    compiled = _compile(compiler, source.constraint)
    if compiled.grammar is None:
        if as_json:
            print_json({"satisfied": False, "mask": None, "validator": None, "report": _json_of(compiled.report), "note": note})
        else:
            show_report(console(), constraint, source, compiled.report)
        raise typer.Exit(REFUSED)
    mask = _by_mask(compiler, compiled.grammar, text)
    validator = _by_validator(compiler, compiled, source.constraint, text)
    satisfied = mask["satisfied"] and (validator is None or validator["satisfied"])
    verdict: dict[str, Any] = {"satisfied": satisfied, "mask": mask, "validator": validator}
    verdict["hint"] = _hint(compiler, compiled.grammar, text, mask)
    if as_json:
        print_json(verdict | {"report": _json_of(compiled.report), "note": note})
    else:
        _show_verdict(verdict, text)
        tell(note)
    raise typer.Exit(0 if verdict["satisfied"] else REFUSED)


for command in (verify, replay, generate, health, bench):
    app.command()(command)


def _compile(compiler: OfflineCompiler, constraint: str) -> CompiledConstraint:
    from ananke_server.offline import JobError

    try:
        return compiler.compile(constraint)
    except JobError as error:
        fail(UNAVAILABLE, f"the compiler failed: {error}")


def _by_mask(compiler: OfflineCompiler, grammar: str, text: str) -> dict[str, Any]:
    from ananke_server.offline import JobError, LimitError

    try:
        followed = compiler.replay(grammar, text)
    except (JobError, LimitError) as error:
        fail(UNAVAILABLE, f"the text cannot be replayed: it {error}" if isinstance(error, LimitError) else f"the matcher failed: {error}")
    return {"satisfied": followed.satisfied, "offset": followed.offset}


def _by_validator(compiler: OfflineCompiler, compiled: CompiledConstraint, constraint: str, text: str) -> dict[str, Any] | None:
    if not compiler.has_validator(constraint):
        return None
    fault = compiler.fault_of(constraint, text, exact=compiled.report.guarantee == "exact")
    return {"satisfied": fault is None, "fault": fault}


def _hint(compiler: OfflineCompiler, grammar: str, text: str, mask: dict[str, Any]) -> str | None:
    ending = next((ending for ending in ("\r\n", "\n") if text.endswith(ending)), None)
    if mask["satisfied"] or ending is None or not _by_mask(compiler, grammar, text.removesuffix(ending))["satisfied"]:
        return None
    return "the text ends with a newline, which belongs to it; without it, it would satisfy the mask"


def _show_verdict(verdict: dict[str, Any], text: str) -> None:
    out = console()
    mask, validator = verdict["mask"], verdict["validator"]
    said = "satisfied"
    if mask["offset"] is not None:
        data = text.encode("utf-8", errors="surrogatepass")
        before, after = (part.decode("utf-8", errors="replace") for part in (data[: mask["offset"]], data[mask["offset"] :]))
        said = f"stops at byte {mask['offset']}: after {before[-40:]!r} it cannot take {after[:40]!r}"
    elif not mask["satisfied"]:
        said = f"not satisfied: the text ends too soon, more has to follow {text[-40:]!r}"
    out.print(Text("mask:      ", style="bold").append(said, style="green" if mask["satisfied"] else "red"), soft_wrap=True)
    if validator is None:
        said, style = "not applicable: it judges JSON schemas alone", "dim"
    else:
        said, style = printable(validator["fault"] or "satisfied"), "green" if validator["satisfied"] else "red"
    out.print(Text("validator: ", style="bold").append(said, style=f"not bold {style}"), soft_wrap=True)
    if verdict["hint"]:
        out.print(Text(f"hint: {verdict['hint']}", style="dim"), soft_wrap=True)


def _source(file: str, kind: Kind, whitespace: str | None, unsupported: str | None) -> Source:
    given = {"whitespace": whitespace, "unsupported": unsupported}
    options = tuple((name, value) for name, value in given.items() if value is not None)
    if options and kind is not Kind.SCHEMA:
        fail(USAGE, f"--{options[0][0]} goes with --kind schema; a constraint says it itself")
    return Source(read_text(file), kind, options)


def _offline(model: str | None) -> tuple[OfflineCompiler, str | None]:
    """The compiler, and what there is to say of its tokenizer."""
    try:
        from ananke_server.launch import DEFAULT_MODEL
        from ananke_server.offline import OfflineCompiler
    except ModuleNotFoundError as error:
        install = install_command("server")
        fail(UNAVAILABLE, f"the compiler is not installed (no {error.name}): {install}, or ask a server with --server URL")
    model = model or os.environ.get("ANANKE_MODEL") or (str(DEFAULT_MODEL) if DEFAULT_MODEL.is_dir() else None)
    try:
        return OfflineCompiler(model), BYTES_NOTE if model is None else None
    except (OSError, ValueError) as error:
        fail(UNAVAILABLE, f"no tokenizer of {model}: {str(error).splitlines()[0][:300]}")


def _ask(server: str, constraint: str) -> ConstraintReport:
    try:
        with client_of(server, timeout=SERVER_TIMEOUT) as client:
            return client.validate(constraint)
    except RequestError as error:
        fail(USAGE, str(error))
    except AnankeError as error:
        fail(UNAVAILABLE, f"{server}: {error}")


def _json_of(report: ConstraintReport) -> dict[str, Any]:
    return report.model_dump(mode="json", exclude={"constraint_satisfied", "unsatisfied_reason"})


def main() -> None:
    """The entry point of the command ``ananke``."""
    open_streams()
    app(prog_name="ananke")


if __name__ == "__main__":
    main()
