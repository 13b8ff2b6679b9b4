"""HTTP client: Triton's generate extension, with server-sent events for streams."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx

from ananke_client.client import DEFAULT_TIMEOUT, HEALTH_TIMEOUT, InferenceClient
from ananke_client.errors import DeadlineExceededError
from ananke_client.http_codec import (
    EventDecoder,
    base_url_of,
    decode_generation,
    decode_validation,
    error_of_status,
    error_of_transport,
    generation_body,
    model_path,
    validation_body,
)
from ananke_client.request import GRACE, GenerationRequest
from ananke_client.response import Outputs

CONNECT_TIMEOUT = 10.0
"""Seconds that a connection may take to open."""


class AnankeInferenceHTTPClient(InferenceClient):
    """Client over HTTP.

    Args:
        url: the server's URL; None takes ANANKE_HTTP_URL, or else http://localhost:8000.
        model_name: the model that generates.
        validate_model_name: the model that validates.
        timeout: seconds that a generation may take unless its call says otherwise.
        transport: what carries the requests, for a socket of one's own or a test; None takes httpx's.

    Raises:
        InvalidRequestError: the timeout is not finite and positive.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        model_name: str = "generate",
        validate_model_name: str = "validate",
        timeout: float = DEFAULT_TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(model_name=model_name, validate_model_name=validate_model_name, timeout=timeout)
        self._http = httpx.Client(
            base_url=base_url_of(url),
            headers={"accept-encoding": "identity"},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            transport=transport,
        )

    def close(self) -> None:
        self._http.close()

    def _send(self, request: GenerationRequest) -> _HTTPResponses:
        deadline = time.monotonic() + request.timeout + GRACE
        path = model_path(self._model_name, "generate_stream" if request.stream else "generate")
        response = self._post(path, generation_body(request), request.timeout)
        return _HTTPResponses(response, _events(response, deadline) if request.stream else _sole(response))

    def _validate(self, constraint: str) -> str:
        path = model_path(self._validate_model_name, "infer")
        return decode_validation(_read(self._post(path, validation_body(constraint), self._timeout)))

    def _is_live(self) -> bool:
        return self._get("/v2/health/live").is_success

    def _is_ready(self) -> bool:
        return self._get("/v2/health/ready").is_success

    def _is_model_ready(self, name: str) -> bool:
        return self._get(model_path(name, "ready")).is_success

    def _server_version(self) -> str:
        return str(self._get("/v2").raise_for_status().json()["version"])

    def _get(self, path: str) -> httpx.Response:
        return self._http.get(path, timeout=HEALTH_TIMEOUT)

    def _post(self, path: str, body: dict[str, Any], timeout: float) -> httpx.Response:
        """Sends a body and returns the response, good by its status, before its body is read."""
        patience = httpx.Timeout(timeout + GRACE, connect=min(timeout, CONNECT_TIMEOUT))
        try:
            response = self._http.send(self._http.build_request("POST", path, json=body, timeout=patience), stream=True)
        except httpx.TransportError as error:
            raise error_of_transport(error) from error
        if not response.is_success:
            raise error_of_status(response.status_code, _read(response))
        return response


class _HTTPResponses:
    def __init__(self, response: httpx.Response, outputs: Iterator[Outputs]) -> None:
        self._response = response
        self._outputs = outputs

    def __next__(self) -> Outputs:
        return next(self._outputs)

    def cancel(self) -> None:
        self._response.close()


def _sole(response: httpx.Response) -> Iterator[Outputs]:
    yield decode_generation(_read(response))


def _events(response: httpx.Response, deadline: float) -> Iterator[Outputs]:
    events = EventDecoder()
    try:
        for chunk in response.iter_bytes():
            for data in events.feed(chunk):
                yield decode_generation(data)
            # httpx bounds the wait for one chunk, not for all of them.
            if time.monotonic() > deadline:
                raise DeadlineExceededError("the server did not end the stream in time")
    except httpx.TransportError as error:
        raise error_of_transport(error) from error


def _read(response: httpx.Response) -> str:
    """The body of a response, which is closed then."""
    try:
        return response.read().decode("utf-8", errors="replace")
    except httpx.TransportError as error:
        raise error_of_transport(error) from error
    finally:
        response.close()
