"""Model files: which of a folder's files are known by digest, and the one digest over several."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ananke_client.provenance.canonical import canonical_json, recordable_text, sha256

TOKENIZER_FILES = frozenset(
    (
        *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        *("vocab.json", "vocab.txt", "merges.txt", "tekken.json", "spiece.model", "chat_template.jinja", "chat_template.json"),
    )
)
"""The files of a folder that make the tokenizer, and the text of a chat."""

Files = Mapping[str, Mapping[str, Any]]
"""``bytes`` and ``sha256`` of each file of a folder, by name."""


def files_of(folder: Path) -> Files:
    """Size and SHA-256 of each file that lies in a folder. Costs a second for some 1.5 GB.

    Raises:
        OSError: the folder or a file of it cannot be read.
    """
    files = {}
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                files[recordable_text(path.name)] = {"bytes": file.tell(), "sha256": digest}
    return files


def digest_of(files: Files) -> str | None:
    """The SHA-256 of the canonical JSON of files; None of none."""
    return sha256(canonical_json(files)) if files else None


def tokenizer_digest(files: Files) -> str | None:
    """The same of those files of a folder that make its tokenizer."""
    return digest_of({name: entry for name, entry in files.items() if name in TOKENIZER_FILES})
