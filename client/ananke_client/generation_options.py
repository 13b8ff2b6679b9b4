"""Generation options: prompt, constraint and sampling parameters as the command line takes them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from pydantic import ValidationError

from ananke_client.config import GenerationConfig
from ananke_client.request import ConstraintLike, Prompt, choice_constraint, regex_constraint
from ananke_client.source import Kind, Source
from ananke_client.terminal import USAGE, fail, read_text

Schema = Annotated[str | None, typer.Option(metavar="SCHEMA", help="JSON schema: a file, or the text itself, from its {")]
Regex = Annotated[str | None, typer.Option(metavar="PATTERN", help="regex that the whole output matches")]
Choice = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="one of the texts to choose from; repeatable")]
Grammar = Annotated[
    str | None,
    typer.Option(metavar="GRAMMAR", help="Lark, or GBNF, which has ::= and no start: a file, or the text itself"),
]
ConstraintText = Annotated[
    str | None,
    typer.Option("--constraint", metavar="JSON", help="constraint: a file, or the text itself, from its {"),
]
Whitespace = Annotated[str | None, typer.Option(help="of a schema: flexible or compact")]
Unsupported = Annotated[str | None, typer.Option(help="of a schema: refuse or verify what masks cannot express")]
MaxTokens = Annotated[int | None, typer.Option(help="bound on the output, in tokens")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy, 2 the most")]
TopP = Annotated[float | None, typer.Option(help="share of the probability that is sampled from")]
TopK = Annotated[int | None, typer.Option(help="how many tokens are sampled from; 0 is all")]
Seed = Annotated[int | None, typer.Option(help="of the sampling; else the server draws one")]

# The rule that each grammar in Lark has; in its texts and comments ::= may stand as well.
_LARK = re.compile(r"^\s*[?!]*start\s*(\[[^\]\n]*\]\s*)?(\.\s*\d+\s*)?:(?!:=)", re.MULTILINE)


def prompt_of(argument: str | None, file: str | None, *, chat: bool) -> Prompt:
    """The prompt: the argument, a file's text, or standard input's where neither is given or one is ``-``; exits on wrong usage."""
    if argument is not None and file is not None:
        fail(USAGE, "give PROMPT or --prompt-file, not both")
    if argument is None and file is None and (sys.stdin is None or sys.stdin.isatty()):
        fail(USAGE, "no prompt: give PROMPT, --prompt-file FILE, or text on standard input")
    text = argument if argument not in (None, "-") else read_text("-" if file is None else file)
    return [{"role": "user", "content": text}] if chat else text


def constraint_of(
    *,
    schema: str | None,
    regex: str | None,
    choice: Sequence[str] | None,
    grammar: str | None,
    constraint: str | None,
    whitespace: str | None,
    unsupported: str | None,
) -> ConstraintLike | None:
    """The constraint that the options make, None where none is given; exits on wrong usage or an unreadable file."""
    given = {"schema": schema, "regex": regex, "choice": choice or None, "grammar": grammar, "constraint": constraint}
    named = [f"--{name}" for name, value in given.items() if value is not None]
    if len(named) > 1:
        fail(USAGE, f"give one of {' and '.join(named)}; to combine them, give a composite to --constraint")
    options = tuple((name, value) for name, value in (("whitespace", whitespace), ("unsupported", unsupported)) if value is not None)
    if options and schema is None:
        fail(USAGE, f"--{options[0][0]} goes with --schema; a constraint says it itself")
    if schema is not None:
        return Source(_json_text(schema), Kind.SCHEMA, options).constraint
    if regex is not None:
        return regex_constraint(regex)
    if choice:
        return choice_constraint(choice)
    if grammar is not None:
        text = grammar if "::=" in grammar or _LARK.search(grammar) else read_text(grammar)
        return Source(text, Kind.GBNF if "::=" in text and not _LARK.search(text) else Kind.LARK).constraint
    return None if constraint is None else _json_text(constraint)


def config_of(**parameters: float | int | None) -> GenerationConfig:
    """Sampling parameters, those that are None left to the server; exits where one is out of bounds."""
    try:
        return GenerationConfig(**{name: value for name, value in parameters.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        fault = error.errors()[0]
        fail(USAGE, f"--{str(fault['loc'][0]).replace('_', '-')}: {fault['msg']}, not {fault['input']!r}")


def _json_text(given: str) -> str:
    return given if given.lstrip().startswith("{") or given.strip() in ("true", "false") else read_text(given)
