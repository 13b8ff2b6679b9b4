"""The signing key: an Ed25519 private key in PEM, from a file or from the environment, never in a log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

    from ananke_server.settings import Settings

KEY_VARIABLE = "ANANKE_SIGNING_KEY"


class SigningKeyError(ValueError):
    """The signing key cannot be used; one line says which setting and why, and nothing of the key."""


def load_signer(settings: Settings) -> CryptoSigner | None:
    """The signer of the settings, None where they name no key.

    Raises:
        SigningKeyError: there are two keys, or the one cannot be read or is no unencrypted Ed25519 private key in PEM.
    """
    file, text = settings.signing_key_file, settings.signing_key
    if file is not None and text is not None:
        raise SigningKeyError("ANANKE_SIGNING_KEY and ANANKE_SIGNING_KEY_FILE are both set; set one of them")
    if file is not None:
        return _signer(_read(file), f"ANANKE_SIGNING_KEY_FILE, {file}")
    if text is not None:
        # What sets environments from a file mostly has no way to write a line's end.
        return _signer(text.get_secret_value().replace("\\n", "\n").encode(), "ANANKE_SIGNING_KEY")
    return None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as fault:
        raise SigningKeyError(f"ANANKE_SIGNING_KEY_FILE: {file} cannot be read: {fault.strerror}") from None


def _signer(pem: bytes, where: str) -> CryptoSigner:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    from ananke_client.provenance import PublicKey

    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise SigningKeyError(f"{where}: the key is encrypted; give it decrypted, in a file that only the server may read") from None
    except (ValueError, UnsupportedAlgorithm):
        # The library's own words may quote the key.
        what = "a public key" if b"PUBLIC KEY" in pem else "no private key in PEM"
        raise SigningKeyError(f"{where}: it is {what}; `make key` makes a private one") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyError(f"{where}: it is a {type(key).__name__.lstrip('_')}, not an Ed25519 key; `make key` makes one")
    return CryptoSigner(key, PublicKey.of(key.public_key()).key)
