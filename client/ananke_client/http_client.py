"""HTTP client, synchronous."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Mapping

import httpx

from ananke_client.background import BlockingBackground
from ananke_client.client import InferenceClient
from ananke_client.commands import ENGINE_MODEL
from ananke_client.connection import TLSConfig, headers_of
from ananke_client.errors import CancelledError, DeadlineExceededError
from ananke_client.exchange import DEFAULT_TIMEOUT, Exchange
from ananke_client.http_codec import BodyDecoder, base_url_of, error_of_status, error_of_transport
from ananke_client.http_transport import HEADERS, LIMITS, HttpResponses, HttpTransport, request_of
from ananke_client.retry import RetryPolicy
from ananke_client.transport import Question, Responses, T


class AnankeInferenceHTTPClient(InferenceClient):
    """Client over HTTP, for threads; connections are kept and used again.

    Args:
        url: the server's URL; None takes ANANKE_HTTP_URL, or else localhost:8000. Without a scheme it is https with ``tls``.
        model_name: the model that generates.
        validate_model_name: the model that validates.
        engine_model_name: the model that takes cancels and tells its status.
        timeout: seconds that a call may take, retries included, unless it says otherwise.
        retry: how calls are tried again; None takes ``RetryPolicy()``.
        tls: whom to trust over https, and who the client is; None trusts the usual authorities.
        api_key: sent as the header ``x-api-key``; None takes ANANKE_API_KEY, if that is set.
        headers: further headers of every request.
        transport: what carries the requests, for a socket of one's own or a test; None takes httpx's.

    Raises:
        InvalidRequestError: the URL does not go with ``tls``, a file of it cannot be read, a header cannot travel, or the timeout is
            not finite and positive.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        model_name: str = "generate",
        validate_model_name: str = "validate",
        engine_model_name: str = ENGINE_MODEL,
        timeout: float = DEFAULT_TIMEOUT,
        retry: RetryPolicy | None = None,
        tls: TLSConfig | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        http = httpx.Client(
            base_url=base_url_of(url, tls),
            headers=HEADERS | headers_of(api_key, headers),
            limits=LIMITS,
            verify=True if tls is None else tls.context(),
            transport=transport,
        )
        blocking = _BlockingTransport(http)
        models = {"model": model_name, "validate_model": validate_model_name, "engine_model": engine_model_name}
        super().__init__(Exchange(blocking, **models, timeout=timeout, retry=retry))


class _BlockingTransport(BlockingBackground, HttpTransport):
    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    async def _start(self, question: Question[str], timeout: float, decoder: BodyDecoder) -> Responses:
        deadline = time.monotonic() + timeout
        response = self._send(question, timeout)
        if not response.is_success:
            raise error_of_status(response.status_code, _read(response))
        return _BlockingResponses(response, decoder, deadline - time.monotonic())

    async def _fetch(self, question: Question[T], timeout: float) -> tuple[int, str]:
        response = self._send(question, timeout)
        return response.status_code, _read(response)

    def _send(self, question: Question[T], timeout: float) -> httpx.Response:
        if self._http.is_closed:
            raise CancelledError("the client is closed")
        try:
            return self._http.send(request_of(self._http, question, timeout), stream=True)
        except httpx.TransportError as error:
            raise error_of_transport(error) from error

    async def close(self) -> None:
        self._http.close()


class _BlockingResponses(HttpResponses):
    """A body that another thread, or the deadline's timer, may cut off: httpx bounds the wait for one chunk, not for all."""

    def __init__(self, response: httpx.Response, decoder: BodyDecoder, seconds: float) -> None:
        super().__init__(response, decoder)
        self._chunks = response.iter_bytes()
        self._lock = threading.Lock()
        self._reading = self._closing = self._late = False
        self._timer = threading.Timer(max(seconds, 0), self._pass_deadline)
        self._timer.daemon = True
        self._timer.start()

    async def _chunk(self) -> bytes | None:
        with self._lock:
            self._reading = True
        try:
            chunk = next(self._chunks, None)
        except (httpx.TransportError, httpx.StreamError) as error:
            raise self._error_of(error) from error
        finally:
            with self._lock:
                self._reading = False
            if self._closing or self._late:
                self._response.close()
        if self._late:
            raise DeadlineExceededError("the server did not end the response in time")
        return chunk

    def _error_of(self, error: httpx.TransportError | httpx.StreamError) -> Exception:
        if self._late:
            return DeadlineExceededError("the server did not end the response in time")
        return error_of_transport(error) if isinstance(error, httpx.TransportError) else CancelledError("the response was closed")

    async def close(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._closing = True
            if self._reading:
                self._cut_off()
                return
        self._response.close()

    def _pass_deadline(self) -> None:
        with self._lock:
            self._late = True
            if self._reading:
                self._cut_off()

    def _cut_off(self) -> None:
        """Ends the wait of the thread that reads, which then closes the response: closing a socket wakes nobody."""
        stream = self._response.extensions.get("network_stream")
        connection = None if stream is None else stream.get_extra_info("socket")
        if isinstance(connection, socket.socket) and not self._response.is_closed:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _read(response: httpx.Response) -> str:
    """The body of a response, which is closed then."""
    try:
        return response.read().decode("utf-8", errors="replace")
    except httpx.TransportError as error:
        raise error_of_transport(error) from error
    finally:
        response.close()
