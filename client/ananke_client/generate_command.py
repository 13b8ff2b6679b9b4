"""``ananke generate``: a text within a constraint, on standard output as it comes."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ananke_client import generation_options as given
from ananke_client import server_options as at
from ananke_client.client import InferenceClient
from ananke_client.config import GenerationConfig
from ananke_client.errors import AnankeError
from ananke_client.evidence_files import make_folder, save_evidence, write_file
from ananke_client.rendering import printable
from ananke_client.request import ConstraintLike, Prompt
from ananke_client.result import GenerationResult
from ananke_client.terminal import REFUSED, fail, only_one_from_input, print_json, tell


def generate(
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="the prompt; - or nothing reads standard input")] = None,
    prompt_file: Annotated[str | None, typer.Option(metavar="FILE", help="the prompt, to the last byte")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="send the prompt as a user's message, through the model's chat template")] = False,
    schema: given.Schema = None,
    regex: given.Regex = None,
    choice: given.Choice = None,
    grammar: given.Grammar = None,
    constraint: given.ConstraintText = None,
    whitespace: given.Whitespace = None,
    unsupported: given.Unsupported = None,
    max_tokens: given.MaxTokens = None,
    temperature: given.Temperature = None,
    top_p: given.TopP = None,
    top_k: given.TopK = None,
    seed: given.Seed = None,
    timeout: at.Timeout = 120.0,
    server: at.Server = None,
    http: at.Http = False,
    envelope: Annotated[str | None, typer.Option(metavar="FILE", help="save the provenance's envelope, for ananke verify")] = None,
    save: Annotated[str | None, typer.Option(metavar="FOLDER", help="save all that ananke verify and replay take")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the whole result as one JSON object, at its end")] = False,
) -> None:
    """Generate a text within a constraint, and print it as it comes.

    A pipe or a file gets the text to the byte, with nothing added; a terminal gets control characters escaped and a newline at the end.
    Exit code 0 if the constraint is satisfied or there is none, 1 if it is refused or not satisfied, 2 for wrong usage,
    3 without an answer.
    """
    source = "-" if prompt is prompt_file is None else prompt if prompt_file is None else prompt_file
    only_one_from_input(PROMPT=source, schema=schema, grammar=grammar, constraint=constraint)
    text = given.prompt_of(prompt, prompt_file, chat=chat)
    limits = given.constraint_of(
        schema=schema,
        regex=regex,
        choice=choice,
        grammar=grammar,
        constraint=constraint,
        whitespace=whitespace,
        unsupported=unsupported,
    )
    if save is not None:
        make_folder(save)
    config = given.config_of(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    try:
        with at.client_of(server, http=http, timeout=timeout) as client:
            result = client.generate(text, limits, config) if as_json else _stream(client, text, limits, config)
    except AnankeError as error:
        fail(at.exit_code_of(error), at.one_line(error))
    if as_json:
        print_json(json_of(result))
    if envelope is not None:
        write_file(envelope, result.envelope)
    if save is not None:
        save_evidence(save, result)
    if result.constraint_satisfied is False:
        why = (result.report.unsatisfied_reason if result.report else None) or result.finish_reason
        fail(REFUSED, f"the output does not satisfy the constraint: {why}")
    if result.finish_reason == "length":
        tell(f"cut after {result.usage.completion_tokens} tokens")


def json_of(result: GenerationResult) -> dict[str, Any]:
    """A result as one JSON object, its report and its provenance with it."""
    report = None if result.report is None else result.report.model_dump(mode="json")
    return {
        "text": result.text,
        "finish_reason": result.finish_reason,
        "constraint_satisfied": result.constraint_satisfied,
        "guarantee": result.guarantee,
        "usage": asdict(result.usage),
        "request_id": result.request_id,
        "text_input": result.text_input,
        "constraint": result.constraint,
        "report": report,
        "metrics": result.metrics,
        "provenance": result.provenance,
        "envelope": result.envelope,
    }


def _stream(client: InferenceClient, prompt: Prompt, constraint: ConstraintLike | None, config: GenerationConfig) -> GenerationResult:
    terminal = sys.stdout.isatty()
    begun = False
    try:
        with client.generate_stream(prompt, constraint, config) as stream:
            for delta in stream:
                begun = True
                _write("\n".join(printable(line) for line in delta.split("\n")) if terminal else delta)
        return stream.result
    finally:
        if terminal and begun:
            _write("\n")


def _write(text: str) -> None:
    # As bytes: the standard output's encoding and newlines are the locale's, and the envelope digests UTF-8.
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", errors="surrogatepass"))
    sys.stdout.buffer.flush()
