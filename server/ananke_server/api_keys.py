"""API keys: who may call, as a file of names and of the hashes of their keys.

One line a key, ``NAME sha256:HEX``; empty lines and those that begin with ``#`` say nothing. A key is 256 random bits behind a
prefix by which scanners for secrets find it. A fast hash is right for such keys: a slow one, or a salt, makes guessing a
person's password dear, and nobody guesses 256 bits.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

KEY_PREFIX: Final = "ananke_"
KEY_BYTES: Final = 32
LONGEST_KEY: Final = 256
"""Characters of a key that is looked at; a longer one is none."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_LINE: Final = re.compile(rf"({NAME.pattern})\s+sha256:([0-9a-f]{{64}})")


class ApiKeyError(ValueError):
    """The file of keys cannot be used; one line says where, why, and what to do."""


def new_key() -> str:
    """A key, to be given to its holder once and kept nowhere."""
    return f"{KEY_PREFIX}{secrets.token_urlsafe(KEY_BYTES)}"


def key_hash(key: str) -> bytes:
    """The SHA-256 by which a key is known."""
    return hashlib.sha256(key.encode("utf-8", errors="replace")).digest()


def key_line(name: str, key: str) -> str:
    """The line of the file that admits a key."""
    return f"{name} sha256:{key_hash(key).hex()}\n"


@dataclass(frozen=True)
class ApiKeys:
    """Names and hashes of the keys that are admitted."""

    hashes: tuple[tuple[str, bytes], ...]

    @classmethod
    def parse(cls, text: str, where: str) -> ApiKeys:
        """The keys of a file's text.

        Raises:
            ApiKeyError: a line is malformed, there is no key, or a name or a key is there twice.
        """
        hashes: dict[str, bytes] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            if not (content := line.strip()) or content.startswith("#"):
                continue
            found = _LINE.fullmatch(content)
            if found is None:
                # The line may be a key that somebody wrote there as it is.
                raise ApiKeyError(f"{where}, line {number}: it should be NAME sha256:HEX, as `make api-key NAME=...` writes it")
            name, digest = found[1], bytes.fromhex(found[2])
            if name in hashes or digest in hashes.values():
                raise ApiKeyError(f"{where}, line {number}: this name, or this key, is there already; remove one")
            hashes[name] = digest
        if not hashes:
            raise ApiKeyError(f"{where}: there is no key in it; `make api-key NAME=...` makes one")
        return cls(tuple(hashes.items()))

    def name_of(self, key: str) -> str | None:
        """The name of a key, None where it is not admitted.

        Takes as long for every key of a length: all entries are compared, each in constant time.
        """
        digest, found = key_hash(key[: LONGEST_KEY + 1]), None
        for name, admitted in self.hashes:
            if hmac.compare_digest(digest, admitted):
                found = name
        return found if len(key) <= LONGEST_KEY else None


class KeyFile:
    """The keys of a file, read again when it has changed, so that a key can be revoked without a restart. For any thread.

    Raises:
        ApiKeyError: the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._state: tuple[int, ...] | None = None
        self._keys: ApiKeys | ApiKeyError | None = None
        self.keys()

    def keys(self) -> ApiKeys:
        """The keys as they are in the file now.

        Raises:
            ApiKeyError: the file has become unusable: then no key is admitted, since one may have been revoked.
        """
        with self._lock:
            state = self._look()
            if self._keys is None or state != self._state:
                first = self._keys is None
                self._state, self._keys = state, self._read()
                if not first:
                    self._tell(self._keys)
            if isinstance(self._keys, ApiKeyError):
                raise self._keys
            return self._keys

    def _tell(self, keys: ApiKeys | ApiKeyError) -> None:
        if isinstance(keys, ApiKeyError):
            logger.error("nobody is admitted: %s", keys)
        else:
            logger.info("%s was read again: %d keys", self._path, len(keys.hashes))

    def _look(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def _read(self) -> ApiKeys | ApiKeyError:
        where = f"ANANKE_API_KEY_FILE, {self._path}"
        try:
            with self._path.open(encoding="utf-8") as opened:
                mode = os.fstat(opened.fileno()).st_mode
                text = opened.read()
            if stat.S_ISREG(mode) and mode & stat.S_IWOTH:
                return ApiKeyError(f"{where}: everybody may write to it, and so admit themselves; chmod o-w it")
            return ApiKeys.parse(text, where)
        except OSError as fault:
            return ApiKeyError(f"{where} cannot be read: {fault.strerror}; `make api-key NAME=...` makes one")
        except UnicodeDecodeError:
            return ApiKeyError(f"{where} is not UTF-8; `make api-key NAME=...` makes one")
        except ApiKeyError as fault:
            return fault
