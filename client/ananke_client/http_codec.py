"""HTTP codec: bodies, server-sent events and statuses as Triton's generate extension writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from ananke_client.connection import TLSConfig
from ananke_client.errors import (
    AnankeError,
    CancelledError,
    DeadlineExceededError,
    EngineUnavailableError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    UnauthenticatedError,
    from_wire,
)
from ananke_client.foreign_errors import error_of_text
from ananke_client.model_info import ModelMetadata, ModelStatistics, StatisticsReply
from ananke_client.report import ConstraintReport
from ananke_client.request import GenerationRequest
from ananke_client.response import Outputs, Scalar, validation_report
from ananke_client.transport import Question

Info = TypeVar("Info", bound=BaseModel)

_ERRORS: dict[int, type[AnankeError]] = {
    400: InvalidRequestError,
    401: UnauthenticatedError,
    403: UnauthenticatedError,
    404: InvalidRequestError,
    408: DeadlineExceededError,
    413: InvalidRequestError,
    429: OverloadedError,
    499: CancelledError,
    502: EngineUnavailableError,
    503: EngineUnavailableError,
    504: DeadlineExceededError,
}


def base_url_of(url: str | None, tls: TLSConfig | None = None) -> str:
    """The server's URL: ``url``, else ANANKE_HTTP_URL, else localhost:8000; without a scheme https with ``tls``, http without.

    Raises:
        InvalidRequestError: the URL is none of HTTP, or there is ``tls`` for one of another scheme than https.
    """
    base = url or os.environ.get("ANANKE_HTTP_URL") or "localhost:8000"
    if "://" not in base:
        base = f"{'http' if tls is None else 'https'}://{base}"
    if tls is not None and not base.lower().startswith("https://"):
        raise InvalidRequestError(f"the URL {base!r} is not encrypted: with tls give https://…, or leave the scheme out")
    try:
        parsed = httpx.URL(base)
        if parsed.scheme not in ("http", "https") or not parsed.host or not 0 < (parsed.port or 80) < 65536:
            raise InvalidRequestError(f"the URL {base!r:.200} is none of HTTP: give http://HOST:PORT")
    except (httpx.InvalidURL, ValueError) as error:  # a host that IDNA refuses is a ValueError
        raise InvalidRequestError(f"the URL {base!r:.200} is malformed: {error}") from error
    return base


def model_path(model_name: str, verb: str) -> str:
    """The path of one of a model's endpoints."""
    return f"/v2/models/{quote(model_name, safe='')}/{verb}"


def generation_body(request: GenerationRequest) -> dict[str, Any]:
    """The body that starts a generation; Triton makes a parameter of a key that names no tensor."""
    return {"id": request.request_id, **request.tensors(), **request.parameters()}


class HttpCodec:
    """Triton's questions as HTTP requests; a reply whose status is no success raises before it is read."""

    def validation(self, model: str, constraint: str, parameters: Mapping[str, int | str]) -> Question[ConstraintReport]:
        body = {
            "parameters": dict(parameters),
            "inputs": [{"name": "constraint", "datatype": "BYTES", "shape": [1], "data": [constraint]}],
            "outputs": [{"name": "constraint_report"}],
        }
        return Question(model_path(model, "infer"), body, _read_report)

    def server_live(self) -> Question[bool]:
        return Question("/v2/health/live", None, lambda text: True)

    def server_ready(self) -> Question[bool]:
        return Question("/v2/health/ready", None, lambda text: True)

    def server_version(self) -> Question[str]:
        return Question("/v2", None, lambda text: str(_json_object(text).get("version", "")))

    def model_ready(self, model: str) -> Question[bool]:
        return Question(model_path(model, "ready"), None, lambda text: True)

    def model_metadata(self, model: str) -> Question[ModelMetadata]:
        return Question(f"/v2/models/{quote(model, safe='')}", None, _info(ModelMetadata))

    def model_statistics(self, model: str) -> Question[list[ModelStatistics]]:
        read = _info(StatisticsReply)
        return Question(model_path(model, "stats"), None, lambda text: read(text).model_stats)


def decode_generation(text: str) -> Outputs:
    """The outputs of one response, without those that are empty.

    Raises:
        AnankeError: the response carries an error, or is malformed.
    """
    values = _json_object(text)
    if "error" in values:
        error = str(values["error"])
        raise error_of_text(error) or InternalError(error)
    scalars = ((name, _scalar(value)) for name, value in values.items())
    return {name: value for name, value in scalars if value is not None}


def error_of_response(response: httpx.Response, text: str) -> AnankeError:
    """The error that a response of this body stands for."""
    # An error that comes first in a stream is written as an event, under an error's status.
    try:
        message = str(json.loads(text.strip().removeprefix("data:"))["error"])
        told = error_of_text(message)
    except (ValueError, KeyError, TypeError, RecursionError):
        message = text.strip()
        told = from_wire(message)
    if told is not None:
        return told
    kind = _ERRORS.get(response.status_code, InternalError)
    wait = response.headers.get("retry-after", "")
    later = f"; try again in {wait} s" if kind is OverloadedError and wait.isascii() and wait.isdigit() else ""
    return kind(f"HTTP {response.status_code}: {message}{later}")


def error_of_transport(error: httpx.TransportError | OSError) -> AnankeError:
    """The error that a failed exchange stands for."""
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return DeadlineExceededError(f"the server did not answer in time: {error!r}")
    return EngineUnavailableError(f"the server is out of reach: {error!r}")


class BodyDecoder(Protocol):
    """Splits a body, as its chunks come, into the JSON texts of its responses."""

    def feed(self, chunk: bytes) -> Iterable[str]:
        """The texts that the chunk completes."""

    def end(self) -> Iterable[str]:
        """The texts that the body's end completes."""


class SoleDecoder:
    """A body that is one text, or nothing where it ended before."""

    def __init__(self) -> None:
        self._body = bytearray()

    def feed(self, chunk: bytes) -> Iterable[str]:
        self._body += chunk
        return ()

    def end(self) -> Iterable[str]:
        return (self._body.decode("utf-8", errors="replace"),) if self._body else ()


class EventDecoder:
    """A body of server-sent events.

    Lines end at a line feed alone: ``str.splitlines``, and so httpx's own line iterator, would also cut at the
    U+2028 and U+0085 that a generated text may hold.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterable[str]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [line.removeprefix(b"data:").decode("utf-8", errors="replace") for line in lines if line.startswith(b"data:")]

    def end(self) -> Iterable[str]:
        return ()


def _read_report(text: str) -> ConstraintReport:
    outputs = _json_object(text).get("outputs")
    for output in outputs if isinstance(outputs, list) else ():
        if isinstance(output, dict) and output.get("name") == "constraint_report" and (report := _scalar(output.get("data"))):
            return validation_report(str(report))
    raise InternalError("the validation has no constraint_report")


def _info(kind: type[Info]) -> Callable[[str], Info]:
    def read(text: str) -> Info:
        try:
            return kind.model_validate_json(text)
        except ValidationError as error:
            raise InternalError(f"Triton's reply is malformed: {error}") from error

    return read


def _scalar(value: Any) -> Scalar | None:
    """A tensor's first element; None where it is empty."""
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, (str, int, float, bool)) and value != "" else None


def _json_object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InternalError(f"the response is not JSON: {error}: {text[:200]!r}") from error
    if not isinstance(values, dict):
        raise InternalError(f"the response is no JSON object: {text[:200]!r}")
    return values
