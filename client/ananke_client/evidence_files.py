"""Evidence files: a result's envelope and what it has digests of, saved to the byte for ``ananke verify`` and ``ananke replay``."""

from __future__ import annotations

from pathlib import Path

from ananke_client.result import GenerationResult
from ananke_client.terminal import USAGE, fail


def make_folder(folder: str) -> None:
    """Make a folder, if it is not there; exits where that cannot be done. Before a generation: the same one comes only once."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(USAGE, f"{folder}: {error.strerror or error}")


def save_evidence(folder: str, result: GenerationResult) -> None:
    """Save envelope.json, output.txt, prompt.txt and, where there is one, constraint.json; exits where a file cannot be written.

    Those of an earlier result are replaced, and its constraint goes where there is none now.
    """
    files = {
        "envelope.json": result.envelope,
        "output.txt": result.text,
        "prompt.txt": result.text_input,
        "constraint.json": result.constraint,
    }
    for name, text in files.items():
        write_file(str(Path(folder) / name), text)


def write_file(file: str, text: str | None) -> None:
    """Write a text as UTF-8, with nothing added; None takes the file away. Exits where that cannot be done."""
    try:
        if text is None:
            Path(file).unlink(missing_ok=True)
        else:
            Path(file).write_bytes(text.encode("utf-8", errors="surrogatepass"))
    except OSError as error:
        fail(USAGE, f"{file}: {error.strerror or error}")
