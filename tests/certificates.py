"""Certificates for tests of TLS: two authorities, and who has a certificate from which."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True)
class Holder:
    """A certificate for 127.0.0.1 and its key, as PEM files."""

    certificate: str
    key: str


def certificates(folder: Path) -> dict[str, Holder]:
    """Of an ``authority``, and from it of a ``server`` and a ``client``; of an ``other`` authority, and from that of a ``stranger``."""
    authority = _Made(folder, "authority", None)
    other = _Made(folder, "other", None)
    made = [authority, other, _Made(folder, "server", authority), _Made(folder, "client", authority), _Made(folder, "stranger", other)]
    return {each.name: each.holder for each in made}


class _Made:
    def __init__(self, folder: Path, name: str, issuer: _Made | None) -> None:
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self._subject)
            .issuer_name((issuer or self)._subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        )
        signed = builder.sign((issuer or self)._key, hashes.SHA256())
        self.holder = Holder(str(folder / f"{name}.pem"), str(folder / f"{name}.key"))
        Path(self.holder.certificate).write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        key = self._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        Path(self.holder.key).write_bytes(key)
