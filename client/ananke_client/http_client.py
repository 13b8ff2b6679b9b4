"""HTTP client, synchronous."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping

import httpx

from ananke_client.background import BlockingBackground
from ananke_client.client import InferenceClient
from ananke_client.commands import ENGINE_MODEL
from ananke_client.connection import TLSConfig, headers_of
from ananke_client.errors import AnankeError, CancelledError
from ananke_client.exchange import DEFAULT_TIMEOUT, Exchange
from ananke_client.http_codec import BodyDecoder, base_url_of, error_of_response, error_of_transport
from ananke_client.http_transport import HEADERS, LIMITS, HttpResponses, HttpTransport, request_of
from ananke_client.proxies import proxy_of
from ananke_client.retry import RetryPolicy
from ananke_client.socket_transport import SocketTransport
from ananke_client.transport import Question, Responses, T
from ananke_client.wait import Wait


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
        transport: what carries the requests, for a socket of one's own or a test; None takes sockets, and for a
            server elsewhere the environment's proxies.

    Raises:
        InvalidRequestError: the URL is none of HTTP or does not go with ``tls``, a file of it cannot be read, a header cannot travel,
            or the timeout is not finite and positive.
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
        base = base_url_of(url, tls)
        context = httpx.create_ssl_context() if tls is None else tls.context()
        http = httpx.Client(
            base_url=base,
            headers=HEADERS | headers_of(api_key, headers),
            transport=transport or SocketTransport(context, proxy_of(base), LIMITS),
        )
        models = {"model": model_name, "validate_model": validate_model_name, "engine_model": engine_model_name}
        super().__init__(Exchange(_BlockingTransport(http), **models, timeout=timeout, retry=retry))


class _BlockingTransport(BlockingBackground, HttpTransport):
    def __init__(self, http: httpx.Client) -> None:
        super().__init__()
        self._http = http
        self._waits: weakref.WeakSet[Wait] = weakref.WeakSet()
        self._opening: dict[str, Wait] = {}
        self._lock = threading.Lock()
        self._closed = False

    async def _start(self, question: Question[str], timeout: float, decoder: BodyDecoder, attempt_id: str) -> Responses:
        wait = self._opening[attempt_id] = self._wait(timeout)
        try:
            response = self._send(question, wait)
            if not response.is_success:
                raise error_of_response(response, _read(response, wait))
        finally:
            del self._opening[attempt_id]
        return _BlockingResponses(response, decoder, wait)

    def abandon(self, attempt_id: str) -> None:
        if (wait := self._opening.get(attempt_id)) is not None:
            wait.cut()

    async def _fetch(self, question: Question[T], timeout: float) -> tuple[httpx.Response, str]:
        wait = self._wait(timeout)
        response = self._send(question, wait)
        return response, _read(response, wait)

    def _wait(self, timeout: float) -> Wait:
        wait = Wait(timeout)
        with self._lock:
            if self._closed:
                raise CancelledError("the client is closed")
            self._waits.add(wait)
        return wait

    def _send(self, question: Question[T], wait: Wait) -> httpx.Response:
        response = None
        try:
            with wait:
                response = self._http.send(request_of(self._http, question, wait.remaining()), stream=True)
            return response
        except httpx.TransportError as error:
            raise wait.meaning(error_of_transport(error)) from error
        except CancelledError:
            if response is not None:
                response.close()
            raise

    async def close(self, patience: float) -> None:
        self.finish_work(patience)
        with self._lock:
            self._closed = True
            waits = list(self._waits)
        for wait in waits:
            wait.cut()  # before their sockets are closed, which would wake nobody
        self._http.close()


class _BlockingResponses(HttpResponses):
    """A body whose wait another thread may cut off."""

    def __init__(self, response: httpx.Response, decoder: BodyDecoder, wait: Wait) -> None:
        super().__init__(response, decoder)
        self._chunks = response.iter_bytes()
        self._wait = wait
        wait.take(response)
        self._lock = threading.Lock()

    async def _chunk(self) -> bytes | None:
        try:
            with self._wait:
                return next(self._chunks, None)
        except (httpx.TransportError, httpx.StreamError) as error:
            raise self._wait.meaning(_error_of(error)) from error
        finally:
            if self._wait.over:
                self._release()

    async def close(self) -> None:
        if not self._wait.cut():
            self._release()

    def _release(self) -> None:
        with self._lock:  # httpx may be told twice, not twice at once
            self._response.close()


def _error_of(error: httpx.TransportError | httpx.StreamError) -> AnankeError:
    return error_of_transport(error) if isinstance(error, httpx.TransportError) else CancelledError("the response was closed")


def _read(response: httpx.Response, wait: Wait) -> str:
    """The body of a response, which is closed then."""
    try:
        with wait:
            return response.read().decode("utf-8", errors="replace")
    except httpx.TransportError as error:
        raise wait.meaning(error_of_transport(error)) from error
    finally:
        response.close()
