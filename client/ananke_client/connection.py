"""Connections: encryption and headers, the same over gRPC and HTTP."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Final

from ananke_client.errors import InvalidRequestError

API_KEY_HEADER: Final = "x-api-key"
"""Name of the HTTP header, and of the gRPC metadata, that carries the API key."""

# gRPC keeps the first two forms to itself; Triton 2.51 dies of the third; the last two are HTTP's to write, of the body.
_RESERVED = re.compile(r"grpc-.*|.*-bin|triton_grpc_error|content-length|transfer-encoding")
_NAME = re.compile(r"[a-z0-9_.-]+")
_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")


@dataclass(frozen=True, kw_only=True, slots=True)
class TLSConfig:
    """Encryption: whom to trust, and for mutual TLS who the client is. All files are PEM.

    Raises:
        InvalidRequestError: a certificate comes without its key, or a key without its certificate.
    """

    ca_file: str | Path | None = None
    """Certificates of the authorities to trust; None trusts the usual public ones."""
    certificate_file: str | Path | None = None
    """The client's certificate, with its chain."""
    key_file: str | Path | None = None
    """The private key of that certificate, not encrypted."""

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise InvalidRequestError("TLSConfig: mutual TLS takes certificate_file and key_file, both")

    def contents(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Authorities, key and certificate as bytes, in gRPC's order.

        Raises:
            InvalidRequestError: a file cannot be read.
        """
        return _content(self.ca_file), _content(self.key_file), _content(self.certificate_file)

    def context(self) -> ssl.SSLContext:
        """The same as a context of Python's ssl.

        Raises:
            InvalidRequestError: a file cannot be read, or is no PEM.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate_file is not None:
                # Without a password of ours, OpenSSL would ask the terminal for one.
                context.load_cert_chain(self.certificate_file, self.key_file, password=lambda: b"")
        except OSError as error:
            named = ", ".join(str(file) for file in (self.ca_file, self.certificate_file, self.key_file) if file is not None)
            raise InvalidRequestError(f"TLSConfig: {error} ({named})") from error
        return context


def headers_of(api_key: str | None, headers: Mapping[str, str] | None) -> dict[str, str]:
    """The headers of every call, names in lower case; without ``api_key`` the key is $ANANKE_API_KEY, if that is set.

    Raises:
        InvalidRequestError: a name or a value cannot travel over both transports. The message never shows a value.
    """
    if not isinstance(headers, (Mapping, NoneType)):
        raise InvalidRequestError(f"the headers are a {type(headers).__name__}: give a mapping of texts")
    if not isinstance(api_key, (str, NoneType)):
        raise InvalidRequestError(f"api_key is a {type(api_key).__name__}: give a text")
    given = {str(name).lower(): value for name, value in (headers or {}).items()}
    if key := api_key if api_key is not None else os.environ.get("ANANKE_API_KEY"):
        given[API_KEY_HEADER] = key
    for name, value in given.items():
        if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name):
            raise InvalidRequestError(f"the header {name!r} is malformed or reserved: take letters, digits, - and _")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise InvalidRequestError(f"the value of the header {name!r} is empty, no text, or not printable ASCII")
    return given


def _content(file: str | Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"TLSConfig: {file}: {error.strerror or error}") from error
