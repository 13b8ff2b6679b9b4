"""The notary: makes the envelope of each finished generation, signs it, and has it written to the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ananke_client.provenance import Envelope, canonical_json
from ananke_client.provenance.canonical import recordable
from ananke_client.provenance.statement import statement
from ananke_server.provenance.log import ProvenanceLog
from ananke_server.provenance.signing import load_signer

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

    from ananke_server.settings import Settings

logger = logging.getLogger(__name__)

DURABLE_SECONDS = 5.0
"""How long an answer waits for its line to be on the disk, where the log promises that."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a log holds beside digests, if it is asked to."""

    prompt: str
    constraint: str | None
    output: str


class Notary:
    """Attests generations. Belongs to one event loop."""

    def __init__(self, signer: CryptoSigner | None = None, log: ProvenanceLog | None = None, *, logs_content: bool = False) -> None:
        self._signer = signer
        self._log = log
        self._logs_content = logs_content

    @classmethod
    def of(cls, settings: Settings) -> Notary:
        """The notary of the settings.

        Raises:
            SigningKeyError: the key cannot be used.
            LogError: the log cannot be opened.
        """
        signer = load_signer(settings)
        log = None
        if settings.provenance_log is not None:
            log = ProvenanceLog(
                settings.provenance_log,
                max_bytes=settings.provenance_log_mib << 20,
                files=settings.provenance_log_files,
                fsync=settings.provenance_log_fsync,
            )
        notary = cls(signer, log, logs_content=settings.provenance_log_content)
        logger.info("provenance: %s", f"signed by the key {notary.keyid}" if signer else "unsigned, as no signing key is set")
        return notary

    @property
    def keyid(self) -> str | None:
        """The id of the key that signs, None where nothing is signed."""
        return None if self._signer is None else str(self._signer.public_key.keyid)

    async def attest(
        self, predicate: Callable[[], dict[str, Any]], subject: str, content: Content
    ) -> tuple[bytes, dict[str, Any] | None]:
        """The envelope of a generation, and what has become of its line in the log, None where there is no log.

        Args:
            predicate: makes it, on a thread of its own.
            subject: the text that the statement is about.
        """
        envelope = await asyncio.to_thread(self._envelope, predicate, subject)
        return envelope, None if self._log is None else await self._logged(self._log, envelope, content)

    def close(self) -> None:
        """Write what the log has still to write."""
        if self._log is not None:
            self._log.close()

    def _envelope(self, predicate: Callable[[], dict[str, Any]], subject: str) -> bytes:
        envelope = Envelope.of(statement(subject, recordable(predicate() | {"signer": self.keyid})))
        return (envelope if self._signer is None else envelope.signed(self._signer)).to_bytes()

    async def _logged(self, log: ProvenanceLog, envelope: bytes, content: Content) -> dict[str, Any]:
        line = b'{"envelope":' + envelope
        if self._logs_content:
            parts = {"constraint": content.constraint, "output": content.output, "prompt": content.prompt}
            line += b"," + canonical_json(recordable(parts))[1:-1]
        written = log.append(line + b"}")
        told = "queued"
        if log.is_durable:
            try:
                await asyncio.wait_for(asyncio.wrap_future(written), DURABLE_SECONDS)
                told = "written"
            except TimeoutError:
                told = f"not on the disk within {DURABLE_SECONDS:g} s"
            except OSError:
                told = "lost"
        state = log.state
        return {"line": told, "lost": state.lost, "error": state.error}
