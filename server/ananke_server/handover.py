"""The hand-over from ``validate`` to ``guided_vllm``: a compiled constraint under a seal.

``guided_vllm`` can be called directly, so it takes a grammar from its input only with the HMAC of a secret that the
two models' processes share and no client can read; anything else it compiles for itself.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
import time
from pathlib import Path

from ananke_client.report import ConstraintReport
from ananke_server.constraints.compiled import CompiledConstraint
from ananke_server.ownership import owned_path

SECRET_BYTES = 32
SIGNATURE_BYTES = 64
"""An HMAC-SHA256 in hexadecimal."""


class Seal:
    """Seals compiled constraints, and opens what is under its own seal."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def shared(cls) -> Seal:
        """The seal of this Triton server: its first Python model makes the secret, the others read it."""
        return cls(_shared_secret(_secret_file()))

    @staticmethod
    def forget() -> None:
        """Remove the shared secret, at the server's end."""
        _secret_file().unlink(missing_ok=True)

    def close(self, constraint: str | None, compiled: CompiledConstraint) -> bytes:
        """A compiled constraint, bound to the text it was compiled from, under the seal; the same bytes for equal arguments."""
        content = {"constraint": _digest(constraint), "grammar": compiled.grammar, "report": compiled.report.model_dump(mode="json")}
        payload = json.dumps(content).encode()
        return self._sign(payload) + payload

    def open(self, constraint: str | None, sealed: bytes) -> CompiledConstraint | None:
        """What ``close`` sealed for this very constraint; None for anything else."""
        signature, payload = sealed[:SIGNATURE_BYTES], sealed[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._sign(payload)):
            return None
        content = json.loads(payload)
        if content["constraint"] != _digest(constraint):
            return None
        return CompiledConstraint(ConstraintReport.model_validate(content["report"]), content["grammar"])

    def _sign(self, payload: bytes) -> bytes:
        return hmac.new(self._secret, payload, "sha256").hexdigest().encode()


def _digest(constraint: str | None) -> str | None:
    return None if constraint is None else hashlib.sha256(constraint.encode("utf-8", errors="surrogatepass")).hexdigest()


def _secret_file() -> Path:
    # Both models' processes are children of one server.
    return owned_path("seal", os.getppid())


def _shared_secret(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return _read_secret(path)
    secret = secrets.token_bytes(SECRET_BYTES)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
    return secret


def _read_secret(path: Path) -> bytes:
    for _ in range(100):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
                raise PermissionError(f"{path} is not this user's alone")
            secret = file.read()
        if len(secret) == SECRET_BYTES:
            return secret
        time.sleep(0.01)
    raise TimeoutError(f"{path} holds no secret")
