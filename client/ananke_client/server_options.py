"""Server options: the commands that talk to a server, how they are told which, and what its errors exit with."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from ananke_client.client import InferenceClient
from ananke_client.connection import TLSConfig
from ananke_client.errors import AnankeError, GenerationError, InvalidRequestError, RequestError, UnauthenticatedError
from ananke_client.terminal import REFUSED, UNAVAILABLE, USAGE

Server = Annotated[
    str | None,
    typer.Option(metavar="URL", help="http[s]://HOST:PORT; gRPC: HOST:PORT or grpcs://HOST:PORT; else $ANANKE_GRPC_URL or localhost:8001"),
]
Http = Annotated[bool, typer.Option("--http", help="over HTTP: HOST:PORT means that; else $ANANKE_HTTP_URL or localhost:8000")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="how long a request may take, retries included")]


def client_of(server: str | None, *, http: bool = False, timeout: float) -> InferenceClient:
    """A client of the server that the options name; encrypted to https://…, to grpcs://… and over gRPC where the environment says how.

    Raises:
        InvalidRequestError: the URL is none that the client takes, or a certificate or the file of the key cannot be used.
    """
    tls, api_key = tls_of_environment(), api_key_of_environment()
    if http or (server is not None and server.startswith(("http://", "https://"))):
        from ananke_client.http_client import AnankeInferenceHTTPClient

        url = server or os.environ.get("ANANKE_HTTP_URL")
        encrypted = tls if url and url.startswith("https://") else None
        return AnankeInferenceHTTPClient(url=url, timeout=timeout, tls=encrypted, api_key=api_key)
    from ananke_client.grpc_client import AnankeInferenceClient

    url = server or os.environ.get("ANANKE_GRPC_URL") or ""
    if url.startswith("grpcs://"):
        tls = tls or TLSConfig()
    return AnankeInferenceClient(url=re.sub("^grpcs?://", "", url) or None, timeout=timeout, tls=tls, api_key=api_key)


def tls_of_environment() -> TLSConfig | None:
    """Encryption by $ANANKE_CA_FILE, $ANANKE_CLIENT_CERTIFICATE_FILE and $ANANKE_CLIENT_KEY_FILE; None where none of them is set.

    Raises:
        InvalidRequestError: a certificate comes without its key, or a key without its certificate.
    """
    authorities, certificate, key = (os.environ.get(f"ANANKE_{name}_FILE") or None for name in ("CA", "CLIENT_CERTIFICATE", "CLIENT_KEY"))
    if authorities is certificate is key is None:
        return None
    return TLSConfig(ca_file=authorities, certificate_file=certificate, key_file=key)


def api_key_of_environment() -> str | None:
    """The key in the file that $ANANKE_API_KEY_PATH names, which may change while a process's environment cannot.

    None leaves the client to $ANANKE_API_KEY, which is stronger.

    Raises:
        InvalidRequestError: the file cannot be read.
    """
    path = os.environ.get("ANANKE_API_KEY_PATH")
    if not path or os.environ.get("ANANKE_API_KEY"):
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else "it is no text"
        raise InvalidRequestError(f"ANANKE_API_KEY_PATH: {path} cannot be read: {reason}") from None


def exit_code_of(error: AnankeError) -> int:
    """The exit code of an error: the constraint or its generation, the request itself, or a server that gave no verdict."""
    if isinstance(error, (InvalidRequestError, UnauthenticatedError)):
        return USAGE
    return REFUSED if isinstance(error, (RequestError, GenerationError)) else UNAVAILABLE


def one_line(error: AnankeError) -> str:
    """An error's text without line breaks, at most 1,000 characters."""
    return " ".join(str(error).split())[:1000]
