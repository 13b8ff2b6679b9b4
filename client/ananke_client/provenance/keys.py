"""Public keys: Ed25519, in PEM (SubjectPublicKeyInfo), named by a digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from securesystemslib.signer import SSlibKey


class PublicKeyError(ValueError):
    """Bytes that are no public key, or one in another spelling; the message says why."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that signatures are held against."""

    keyid: str
    """SHA-256 of its SubjectPublicKeyInfo in DER, in hexadecimal: ``openssl pkey -pubin -in FILE -outform DER | sha256sum``."""
    key: SSlibKey

    @classmethod
    def of(cls, key: Ed25519PublicKey) -> PublicKey:
        """The key with its id."""
        from securesystemslib.signer import SSlibKey

        keyid = key_id(key)
        return cls(keyid, SSlibKey.from_crypto(key, keyid))

    @classmethod
    def parse(cls, data: bytes) -> PublicKey:
        """The key of a PEM file, as ``make key`` and ``openssl pkey -pubout`` write it.

        Raises:
            PublicKeyError: it holds no Ed25519 public key, or anything else beside it.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        if b"PRIVATE KEY" in data:
            raise PublicKeyError("it is a private key; verifying takes the public one")
        try:
            key = load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as fault:
            raise PublicKeyError(f"it is no public key in PEM: {str(fault).splitlines()[0]:.200}") from None
        if not isinstance(key, Ed25519PublicKey):
            raise PublicKeyError(f"it is a {type(key).__name__}, not an Ed25519 key")
        if pem_of(key) != data:
            raise PublicKeyError("it is not the canonical PEM of its key: something else was added, left out or spelt another way")
        return cls.of(key)


def pem_of(key: Ed25519PublicKey) -> bytes:
    """The key in PEM, as verification takes it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 of the key's SubjectPublicKeyInfo in DER, in hexadecimal."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
