"""Identity: which model and tokenizer serve, by the digests of their files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ananke_client.provenance.canonical import recordable_text
from ananke_client.provenance.model_files import digest_of, tokenizer_digest

logger = logging.getLogger(__name__)

_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model and tokenizer serve; ``files`` is empty where they were not found."""

    name: str
    revision: str | None
    files: dict[str, dict[str, Any]]
    tokenizer: str | None = None

    @classmethod
    def of(cls, model: str, revision: str | None, *, tokenizer: str | None = None, cache: DigestCache | None = None) -> ModelIdentity:
        """The identity of a folder, or of a hub's name by its snapshot in the hub's cache, whose commit is the revision.

        Costs a second for some 1.5 GB a core, and next to nothing for files that the cache knows.

        Args:
            tokenizer: a folder or hub's name where it is not the model's own.
            cache: kept between starts.
        """
        cache = cache or DigestCache(None)
        folder, is_snapshot = _folder_of(model, revision)
        files = {} if folder is None else cache.digests(folder)
        beside = folder if tokenizer in (None, model) else _folder_of(str(tokenizer), None)[0]
        makers = {} if beside is None else cache.digests(beside)
        cache.save()
        return cls(
            name=model if is_snapshot or folder is None else folder.name,
            revision=folder.name if is_snapshot and folder is not None else revision,
            files=files,
            tokenizer=tokenizer_digest(makers),
        )

    def to_json(self) -> dict[str, Any]:
        """The identity as a predicate holds it."""
        tokenizer = None if self.tokenizer is None else {"sha256": self.tokenizer}
        return {"name": self.name, "revision": self.revision, "sha256": digest_of(self.files), "files": self.files, "tokenizer": tokenizer}


class DigestCache:
    """Digests of files by path, size, times of change and inode, kept in a JSON file. What cannot be read or written is done without.

    The time of the last change of content can be set back by anybody, as ``cp -p`` does; that of the inode cannot.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        if path is not None:
            with suppress(OSError, ValueError):
                known = dict(json.loads(path.read_text(encoding="utf-8")))
                self._known = {name: entry for name, entry in known.items() if isinstance(entry, list) and len(entry) == 5}

    def digests(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Size and SHA-256 of each file that lies in a folder, by name."""
        files = sorted(file for file in folder.iterdir() if file.is_file())
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return {recordable_text(file.name): entry for file, entry in zip(files, threads.map(self._digest, files), strict=True)}

    def save(self) -> None:
        """Write down what is new."""
        if self._path is None or not self._changed:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, draft = tempfile.mkstemp(dir=self._path.parent)
            try:
                with open(descriptor, "w", encoding="utf-8") as file:
                    json.dump(self._known, file)
                os.replace(draft, self._path)
            except OSError:
                os.unlink(draft)
                raise
        except OSError as fault:
            logger.warning("digests of the model's files are not kept: %s", fault)

    def _digest(self, file: Path) -> dict[str, Any]:
        path = file.resolve()
        status = path.stat()
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        known = self._known.get(str(path))
        if known is None or known[:4] != state:
            with path.open("rb") as opened:
                known = [*state, hashlib.file_digest(opened, "sha256").hexdigest()]
            self._known[str(path)] = known
            self._changed = True
        return {"bytes": known[0], "sha256": known[4]}


def _folder_of(model: str, revision: str | None) -> tuple[Path | None, bool]:
    """The folder that a model was loaded from, and whether it is a snapshot of the hub's, named by its commit."""
    folder = Path(model).absolute()
    if folder.is_dir():
        return folder, False
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True)), True
    except (HFValidationError, LocalEntryNotFoundError, OSError) as fault:
        logger.warning("the files of %s are not in the hub's cache, so provenance has no digests of them: %s", model, fault)
        return None, False
