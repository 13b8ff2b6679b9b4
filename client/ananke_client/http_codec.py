"""HTTP codec: bodies, server-sent events and statuses as Triton's generate extension writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx

from ananke_client.errors import (
    AnankeError,
    CancelledError,
    DeadlineExceededError,
    EngineUnavailableError,
    InternalError,
    InvalidRequestError,
    from_wire,
)
from ananke_client.request import GenerationRequest
from ananke_client.response import Outputs, Scalar

_ERRORS: dict[int, type[AnankeError]] = {
    400: InvalidRequestError,
    404: InvalidRequestError,
    408: DeadlineExceededError,
    499: CancelledError,
    502: EngineUnavailableError,
    503: EngineUnavailableError,
    504: DeadlineExceededError,
}


def base_url_of(url: str | None) -> str:
    """The server's URL: ``url``, else ANANKE_HTTP_URL, else http://localhost:8000; the scheme may be left out."""
    base = url or os.environ.get("ANANKE_HTTP_URL") or "http://localhost:8000"
    return base if "://" in base else f"http://{base}"


def model_path(model_name: str, verb: str) -> str:
    """The path of one of a model's endpoints."""
    return f"/v2/models/{quote(model_name, safe='')}/{verb}"


def generation_body(request: GenerationRequest) -> dict[str, Any]:
    """The body that starts a generation; Triton makes a parameter of a key that names no tensor."""
    return {"id": request.request_id, **request.tensors(), "deadline_ms": request.deadline_ms}


def validation_body(constraint: str) -> dict[str, Any]:
    """The body of a validation."""
    return {
        "inputs": [{"name": "constraint", "datatype": "BYTES", "shape": [1], "data": [constraint]}],
        "outputs": [{"name": "constraint_report"}],
    }


def decode_generation(text: str) -> Outputs:
    """The outputs of one response, without those that are empty.

    Raises:
        AnankeError: the response carries an error, or is malformed.
    """
    values = _json_object(text)
    if "error" in values:
        error = str(values["error"])
        raise from_wire(error) or InternalError(error)
    scalars = ((name, _scalar(value)) for name, value in values.items())
    return {name: value for name, value in scalars if value is not None}


def decode_validation(text: str) -> str:
    """The ``constraint_report`` of a validation, as JSON text.

    Raises:
        InternalError: there is none.
    """
    for output in _json_object(text).get("outputs", ()):
        if output.get("name") == "constraint_report" and (report := _scalar(output.get("data"))):
            return str(report)
    raise InternalError("the validation has no constraint_report")


def error_of_status(status: int, text: str) -> AnankeError:
    """The error that a response's status and body stand for."""
    # An error that comes first in a stream is written as an event, under an error's status.
    try:
        message = str(json.loads(text.strip().removeprefix("data:"))["error"])
    except (ValueError, KeyError, TypeError):
        message = text.strip()
    return from_wire(message) or _ERRORS.get(status, InternalError)(f"HTTP {status}: {message}")


def error_of_transport(error: httpx.TransportError) -> AnankeError:
    """The error that a failed exchange stands for."""
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return DeadlineExceededError(f"the server did not answer in time: {error!r}")
    return EngineUnavailableError(f"the server is out of reach: {error!r}")


class EventDecoder:
    """Splits a body into the data of its events.

    Lines end at a line feed alone: ``str.splitlines``, and so httpx's own line iterator, would also cut at the
    U+2028 and U+0085 that a generated text may hold.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[str]:
        """The data of each event that the chunk ends."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").decode("utf-8", errors="replace")


def _scalar(value: Any) -> Scalar | None:
    """A tensor's first element; None where it is empty."""
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, (str, int, float, bool)) and value != "" else None


def _json_object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InternalError(f"the response is not JSON: {error}: {text[:200]!r}") from error
    if not isinstance(values, dict):
        raise InternalError(f"the response is no JSON object: {text[:200]!r}")
    return values
