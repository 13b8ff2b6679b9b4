"""Server options: the commands that talk to a server, how they are told which, and what its errors exit with."""

from __future__ import annotations

from typing import Annotated

import typer

from ananke_client.client import InferenceClient
from ananke_client.errors import AnankeError, GenerationError, InvalidRequestError, RequestError, UnauthenticatedError
from ananke_client.terminal import REFUSED, UNAVAILABLE, USAGE

Server = Annotated[
    str | None,
    typer.Option(metavar="URL", help="http://HOST:PORT, or HOST:PORT for gRPC; else $ANANKE_GRPC_URL or localhost:8001"),
]
Http = Annotated[bool, typer.Option("--http", help="over HTTP: HOST:PORT means that; else $ANANKE_HTTP_URL or localhost:8000")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="how long a request may take, retries included")]


def client_of(server: str | None, *, http: bool = False, timeout: float) -> InferenceClient:
    """A client of the server that the options name.

    Raises:
        InvalidRequestError: the URL is none that the client takes.
    """
    if http or (server is not None and server.startswith(("http://", "https://"))):
        from ananke_client.http_client import AnankeInferenceHTTPClient

        return AnankeInferenceHTTPClient(url=server, timeout=timeout)
    from ananke_client.grpc_client import AnankeInferenceClient

    return AnankeInferenceClient(url=None if server is None else server.removeprefix("grpc://"), timeout=timeout)


def exit_code_of(error: AnankeError) -> int:
    """The exit code of an error: the constraint or its generation, the request itself, or a server that gave no verdict."""
    if isinstance(error, (InvalidRequestError, UnauthenticatedError)):
        return USAGE
    return REFUSED if isinstance(error, (RequestError, GenerationError)) else UNAVAILABLE


def one_line(error: AnankeError) -> str:
    """An error's text without line breaks, at most 1,000 characters."""
    return " ".join(str(error).split())[:1000]
