"""``ananke replay``: a recorded generation repeated by the model itself, and compared token by token."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ananke_client.errors import AnankeError, GenerationError
from ananke_client.extras import install_command
from ananke_client.provenance import Evidence, Statement
from ananke_client.provenance import verify as verify_envelope
from ananke_client.terminal import REFUSED, UNAVAILABLE, USAGE, console, fail, only_one_from_input, print_json, read_bytes, tell
from ananke_client.verify_command import files_in, show

if TYPE_CHECKING:
    from ananke_server.replay import Comparison, Inputs, Token


def replay(
    envelope: Annotated[str, typer.Argument(metavar="ENVELOPE", help="the envelope, to the last byte; - reads standard input")],
    model: Annotated[str, typer.Option(metavar="FOLDER", help="the model that the statement names")],
    prompt: Annotated[str, typer.Option(metavar="FILE", help="the prompt as it was sent: the bytes of text_input")],
    constraint: Annotated[str | None, typer.Option(metavar="FILE", help="the constraint as it was sent, where there was one")] = None,
    output: Annotated[str | None, typer.Option(metavar="FILE", help="the output: needed to find the first token that departs")] = None,
    public_key: Annotated[list[str] | None, typer.Option(metavar="FILE", help="a key that may have signed; repeatable")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Generate an output again from its recorded inputs, alone in its batch, and tell whether every token is the same.

    Exit code 0 if they are, 1 if one differs or the files are not those of the envelope, 3 if the model cannot be run here.
    """
    only_one_from_input(ENVELOPE=envelope, prompt=prompt, constraint=constraint, output=output, public_key=public_key)
    evidence = Evidence(
        output=None if output is None else read_bytes(output),
        constraint=None if constraint is None else read_bytes(constraint),
        prompt=read_bytes(prompt),
        model=files_in(model),
        public_keys={file: read_bytes(file) for file in public_key or ()},
    )
    verification = verify_envelope(read_bytes(envelope), evidence)
    if verification.failed or verification.statement is None:
        if as_json:
            print_json({"result": "failed", "verification": verification.to_json()})
        else:
            show(verification)
        raise typer.Exit(REFUSED)
    if verification.statement.predicate.constraint is not None and constraint is None:
        fail(USAGE, "the output had a constraint: give it with --constraint")
    comparison, notes = _compared(model, verification.statement, evidence)
    if as_json:
        print_json(_json_of(comparison, notes))
    else:
        _show(comparison, notes)
    raise typer.Exit(0 if comparison.equal else REFUSED)


def _compared(model: str, statement: Statement, evidence: Evidence) -> tuple[Comparison, list[str]]:
    with _standard_output_for_results():
        try:
            from ananke_server.replay import Replayer, differences
        except ModuleNotFoundError as error:
            install = install_command("server", "cpu")
            fail(UNAVAILABLE, f"vLLM is not installed (no {error.name}): {install}, or '.[server,gpu]'")
        predicate = statement.predicate
        try:
            with Replayer(model, predicate.engine) as replayer:
                return replayer.compare(predicate, _inputs(statement, evidence)), differences(predicate)
        except GenerationError as error:
            fail(REFUSED, f"different: the generation fails here: {error}")
        except (AnankeError, OSError, RuntimeError, ValueError) as error:
            fail(UNAVAILABLE, f"the generation could not be repeated: {str(error).splitlines()[0]:.500}")


def _inputs(statement: Statement, evidence: Evidence) -> Inputs:
    from ananke_server.replay import Inputs

    output = evidence.generated(statement.predicate)
    return Inputs(
        prompt=(evidence.prompt or b"").decode("utf-8"),
        constraint=None if evidence.constraint is None else evidence.constraint.decode("utf-8"),
        output=None if output is None else output.decode("utf-8"),
    )


def _json_of(comparison: Comparison, notes: list[str]) -> dict[str, Any]:
    return {
        "result": "equal" if comparison.equal else "different",
        "tokens": comparison.tokens,
        "position": comparison.position,
        "recorded": _token_json(comparison.recorded),
        "repeated": _token_json(comparison.repeated),
        "gap": comparison.gap,
        "text": comparison.text,
        "differences": notes,
    }


def _token_json(token: Token | None) -> dict[str, Any] | None:
    return None if token is None else {"id": token.id, "text": token.text, "logprob": token.logprob}


def _show(comparison: Comparison, notes: list[str]) -> None:
    out = console()
    if comparison.equal:
        out.print(Text("equal", style="bold green").append(f": {comparison.tokens} tokens", style="not bold default"), soft_wrap=True)
    elif comparison.position is None:
        advice = "; give --output to have the first token that departs"
        out.print(Text("different", style="bold red").append(advice, style="not bold default"), soft_wrap=True)
    else:
        out.print(Text("different", style="bold red").append(f" from token {comparison.position} on", style="not bold default"))
        for name, token in (("recorded", comparison.recorded), ("repeated", comparison.repeated)):
            said = "the end" if token is None else f"{token.id} {token.text!r}"
            said += "" if token is None or token.logprob is None else f", log-probability {token.logprob:.4f}"
            out.print(Text(f"  {name}  {said}"), soft_wrap=True)
        if comparison.gap is not None:
            out.print(Text(f"  the logits are {comparison.gap:+.4f} apart, before mask and temperature"), soft_wrap=True)
    for note in notes:
        tell(note)


@contextmanager
def _standard_output_for_results() -> Iterator[None]:
    """vLLM and its processes log to standard output: let them do so on standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
