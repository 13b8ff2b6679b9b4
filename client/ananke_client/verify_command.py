"""``ananke verify``: an output's provenance held against its files, offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from ananke_client.provenance import Evidence, Judge, Judged, Verification, files_of
from ananke_client.provenance import verify as verify_envelope
from ananke_client.provenance.model_files import Files
from ananke_client.rendering import printable
from ananke_client.terminal import REFUSED, UNAVAILABLE, USAGE, console, fail, only_one_from_input, print_json, read_bytes

if TYPE_CHECKING:
    from ananke_client.constraint import Constraint
    from ananke_server.offline import OfflineCompiler

_STYLES = {"passed": "green", "failed": "bold red", "not made": "yellow", "not asked": "dim"}
_VERDICTS = {"verified": 0, "failed": REFUSED, "incomplete": UNAVAILABLE}


def verify(
    envelope: Annotated[str, typer.Argument(metavar="ENVELOPE", help="the envelope, to the last byte; - reads standard input")],
    output: Annotated[str, typer.Option(metavar="FILE", help="the output's text, to the last byte")],
    constraint: Annotated[str | None, typer.Option(metavar="FILE", help="the constraint as it was sent")] = None,
    prompt: Annotated[str | None, typer.Option(metavar="FILE", help="the prompt as it was sent: the bytes of text_input")] = None,
    report: Annotated[str | None, typer.Option(metavar="FILE", help="the constraint_report that came with it")] = None,
    model: Annotated[str | None, typer.Option(metavar="FOLDER", help="the model: holds its files against the statement")] = None,
    tokenizer: Annotated[str | None, typer.Option(metavar="FOLDER", help="the tokenizer, where it is not the model's own")] = None,
    public_key: Annotated[list[str] | None, typer.Option(metavar="FILE", help="a key that may have signed; repeatable")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Tell whether an output is the one that an envelope speaks of: signature, digests, and that it satisfies its constraint.

    Exit code 0 if every check passed, 1 if one failed, 3 if none failed but one could not be made, as the signature's without a key.
    """
    only_one_from_input(ENVELOPE=envelope, output=output, constraint=constraint, prompt=prompt, report=report, public_key=public_key)
    evidence = Evidence(
        output=read_bytes(output),
        constraint=None if constraint is None else read_bytes(constraint),
        prompt=None if prompt is None else read_bytes(prompt),
        report=None if report is None else read_bytes(report),
        model=files_in(model),
        tokenizer=files_in(tokenizer),
        public_keys={file: read_bytes(file) for file in public_key or ()},
    )
    verification = verify_envelope(read_bytes(envelope), evidence, None if constraint is None else offline_judge(model))
    if as_json:
        print_json(verification.to_json())
    else:
        show(verification)
    raise typer.Exit(_VERDICTS[verification.result])


def show(verification: Verification) -> None:
    """Print each check, and the verdict."""
    out = console()
    width = max(len(check.name) for check in verification.checks)
    for check in verification.checks:
        line = Text(f"{check.name:{width}}  ", style="bold").append(f"{check.result:9}", style=f"not bold {_STYLES[check.result]}")
        out.print(line.append(f"  {printable(check.detail)}" if check.detail else "", style="not bold default"), soft_wrap=True)
    style = {"verified": "bold green", "failed": "bold red", "incomplete": "bold yellow"}[verification.result]
    out.print(Text(verification.result, style=style))


def files_in(folder: str | None) -> Files | None:
    """Size and SHA-256 of each file of a model's folder; exits where it cannot be read. None of none."""
    try:
        return None if folder is None else files_of(Path(folder))
    except OSError as error:
        fail(USAGE, f"{error.filename or folder}: {error.strerror or error}")


def offline_judge(model: str | None) -> Judge | None:
    """What judges outputs as the server does, with the model's tokenizer or one token a byte; None without the server extra."""
    try:
        from ananke_server.offline import OfflineCompiler
    except ModuleNotFoundError:
        return None
    try:
        compiler = OfflineCompiler(model)
    except (OSError, ValueError) as error:
        why = f"no tokenizer of {model}: {str(error).splitlines()[0]:.300}"
        return lambda *_: Judged(unavailable=why)
    return lambda constraint, output: _judged(compiler, constraint, output, by_bytes=model is None)


def _judged(compiler: OfflineCompiler, constraint: str, output: str, *, by_bytes: bool) -> Judged:
    from ananke_server.constraints.parse import parse
    from ananke_server.offline import JobError, LimitError

    try:
        compiled = compiler.compile(constraint)
        if compiled.grammar is None:
            errors = "; ".join(str(error) for error in compiled.report.errors)
            return Judged(unavailable=f"the compiler here refuses the constraint: {errors:.500}")
        if by_bytes and _masks_tokens(parse(constraint)):
            return Judged(unavailable="a token mask means a model's tokens: give --model")
        fault = compiler.fault_of(constraint, output, exact=compiled.report.guarantee == "exact")
        followed = compiler.replay(compiled.grammar, output)
    except (JobError, LimitError) as error:
        return Judged(unavailable=f"judging the output failed: it {error}" if isinstance(error, LimitError) else f"a fault: {error}")
    if fault is None and not followed.satisfied:
        fault = "the output ends too soon" if followed.offset is None else f"the mask stops at byte {followed.offset} of the output"
    return Judged(compiled.report.key, fault)


def _masks_tokens(constraint: Constraint) -> bool:
    from ananke_client.constraint import CompositeConstraint, TokenMaskConstraint

    if isinstance(constraint, CompositeConstraint):
        return any(_masks_tokens(part) for part in constraint.constraints)
    return isinstance(constraint, TokenMaskConstraint)
