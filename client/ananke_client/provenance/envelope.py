"""The envelope: a statement's bytes and their signatures, in the form of DSSE 1.0 (https://github.com/secure-systems-lab/dsse).

It is held to one spelling: canonical JSON, no field but DSSE's, base64 of the standard alphabet with its padding. So no byte of
it can change without being noticed, whether a signature covers that byte or not.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ananke_client.provenance.canonical import NotCanonicalError, canonical_json, read_canonical

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from ananke_client.provenance.keys import PublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class EnvelopeError(ValueError):
    """Bytes that are no envelope, or one in another spelling; the message says where."""


class SignatureFault(ValueError):
    """A signature that does not hold, or whose key is not among those given; the message says which."""


@dataclass(frozen=True, slots=True)
class Signature:
    """An Ed25519 signature of 64 bytes, and the id of its key."""

    keyid: str
    sig: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload, the canonical JSON of an in-toto Statement, with no signature or several."""

    payload: bytes
    signatures: tuple[Signature, ...] = ()

    @classmethod
    def of(cls, statement: dict[str, Any]) -> Envelope:
        """The unsigned envelope of a statement.

        Raises:
            ValueError: canonical JSON cannot hold the statement.
        """
        return cls(canonical_json(statement))

    @classmethod
    def parse(cls, data: bytes) -> Envelope:
        """The envelope of its bytes. Verifies no signature.

        Raises:
            EnvelopeError: they are not the bytes that ``to_bytes`` gives for an envelope.
        """
        try:
            value = read_canonical(data)
        except NotCanonicalError as fault:
            hint = "; a newline at the end does not belong to it" if data.endswith(b"\n") else ""
            raise EnvelopeError(f"{fault}{hint}") from None
        _check_names(value, {"payload", "payloadType", "signatures"}, "the envelope")
        if value["payloadType"] != PAYLOAD_TYPE:
            raise EnvelopeError(f"payloadType is {value['payloadType']!r:.80}, not {PAYLOAD_TYPE!r}")
        if not isinstance(value["signatures"], list):
            raise EnvelopeError("signatures is no list")
        signatures = tuple(_signature(entry, index) for index, entry in enumerate(value["signatures"]))
        if len({signature.keyid for signature in signatures}) < len(signatures):
            raise EnvelopeError("two signatures are of one key")
        return cls(_base64(value["payload"], "payload"), signatures)

    def to_bytes(self) -> bytes:
        """The one spelling of this envelope: ASCII, without a newline at the end."""
        signatures = [{"keyid": signature.keyid, "sig": _encoded(signature.sig)} for signature in self.signatures]
        return canonical_json({"payload": _encoded(self.payload), "payloadType": PAYLOAD_TYPE, "signatures": signatures})

    @property
    def statement(self) -> Any:
        """The payload's JSON value.

        Raises:
            NotCanonicalError: the payload is not the canonical form of one.
        """
        return read_canonical(self.payload)

    def signed(self, signer: Signer) -> Envelope:
        """This envelope with one more signature. Costs some 25 us."""
        from securesystemslib.dsse import Envelope as Dsse

        made = Dsse(self.payload, PAYLOAD_TYPE, {}).sign(signer)
        return Envelope(self.payload, (*self.signatures, Signature(made.keyid, bytes.fromhex(made.signature))))

    def check_signatures(self, keys: list[PublicKey]) -> None:
        """Hold every signature against its key.

        Raises:
            SignatureFault: there is none, one does not hold, or its key is not among ``keys``.
        """
        from securesystemslib.dsse import Envelope as Dsse
        from securesystemslib.exceptions import UnverifiedSignatureError
        from securesystemslib.signer import Signature as DsseSignature

        if not self.signatures:
            raise SignatureFault("the envelope is unsigned")
        signed = Dsse(self.payload, PAYLOAD_TYPE, {}).pae()
        by_id = {key.keyid: key for key in keys}
        for signature in self.signatures:
            if signature.keyid not in by_id:
                raise SignatureFault(f"signed by the key {signature.keyid:.64}, which is not among those given: {', '.join(by_id)}")
            try:
                by_id[signature.keyid].key.verify_signature(DsseSignature(signature.keyid, signature.sig.hex()), signed)
            except UnverifiedSignatureError:
                raise SignatureFault(f"the signature of the key {signature.keyid} does not hold: it or the payload was changed") from None


def _check_names(value: Any, names: set[str], what: str) -> None:
    if not isinstance(value, dict):
        raise EnvelopeError(f"{what} is no JSON object")
    if value.keys() != names:
        raise EnvelopeError(f"{what} has the fields {', '.join(sorted(value)):.200}, not {', '.join(sorted(names))}")


def _signature(value: Any, index: int) -> Signature:
    _check_names(value, {"keyid", "sig"}, f"signature {index}")
    if not isinstance(value["keyid"], str):
        raise EnvelopeError(f"the keyid of signature {index} is no text")
    return Signature(value["keyid"], _base64(value["sig"], f"sig of signature {index}"))


def _base64(value: Any, what: str) -> bytes:
    if not isinstance(value, str):
        raise EnvelopeError(f"{what} is no text")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as fault:
        raise EnvelopeError(f"{what} is not base64: {fault}") from None
    if _encoded(data) != value:
        raise EnvelopeError(f"{what} is not canonical base64: its last bits are padding and must be 0")
    return data


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
