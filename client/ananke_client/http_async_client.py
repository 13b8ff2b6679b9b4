"""HTTP client, asynchronous."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import httpx

from ananke_client.async_client import AsyncInferenceClient
from ananke_client.background import AsyncBackground
from ananke_client.commands import ENGINE_MODEL
from ananke_client.connection import TLSConfig, headers_of
from ananke_client.errors import CancelledError, DeadlineExceededError
from ananke_client.exchange import DEFAULT_TIMEOUT, Exchange
from ananke_client.http_codec import BodyDecoder, base_url_of, error_of_response, error_of_transport
from ananke_client.http_transport import HEADERS, LIMITS, HttpResponses, HttpTransport, request_of
from ananke_client.proxies import proxy_of
from ananke_client.retry import RetryPolicy
from ananke_client.transport import Question, Responses, T

# httpx 0.28 lets an alert of TLS through as Python's own error, where a server refuses the client's certificate.
_BROKEN = (httpx.TransportError, OSError)


class AsyncAnankeInferenceHTTPClient(AsyncInferenceClient):
    """Client over HTTP, for one event loop; connections are kept and used again.

    Args and Raises: as ``AnankeInferenceHTTPClient``, with an asynchronous ``transport``.
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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        base = base_url_of(url, tls)
        verify = True if tls is None else tls.context()
        http = httpx.AsyncClient(
            base_url=base,
            headers=HEADERS | headers_of(api_key, headers),
            transport=transport or httpx.AsyncHTTPTransport(verify=verify, limits=LIMITS, proxy=proxy_of(base)),
        )
        asynchronous = _AsyncTransport(http)
        models = {"model": model_name, "validate_model": validate_model_name, "engine_model": engine_model_name}
        super().__init__(Exchange(asynchronous, **models, timeout=timeout, retry=retry))


class _AsyncTransport(AsyncBackground, HttpTransport):
    def __init__(self, http: httpx.AsyncClient) -> None:
        super().__init__()
        self._http = http

    async def _start(self, question: Question[str], timeout: float, decoder: BodyDecoder, attempt_id: str) -> Responses:
        deadline = time.monotonic() + timeout
        response = await self._send(question, timeout)
        if not response.is_success:
            raise error_of_response(response, await _read(response, deadline - time.monotonic()))
        return _AsyncResponses(response, decoder, deadline)

    def abandon(self, attempt_id: str) -> None:
        pass  # who waits for a head is a task, which is cancelled, or ends with the connections

    async def _fetch(self, question: Question[T], timeout: float) -> tuple[httpx.Response, str]:
        deadline = time.monotonic() + timeout
        response = await self._send(question, timeout)
        return response, await _read(response, deadline - time.monotonic())

    async def _send(self, question: Question[T], timeout: float) -> httpx.Response:
        if self._http.is_closed:
            raise CancelledError("the client is closed")
        try:
            async with asyncio.timeout(timeout):
                return await self._http.send(request_of(self._http, question, timeout), stream=True)
        except TimeoutError as error:
            raise DeadlineExceededError("the server did not answer in time") from error
        except _BROKEN as error:
            raise error_of_transport(error) from error

    async def close(self, patience: float) -> None:
        await self.finish_work(patience)
        await self._http.aclose()


class _AsyncResponses(HttpResponses):
    def __init__(self, response: httpx.Response, decoder: BodyDecoder, deadline: float) -> None:
        super().__init__(response, decoder)
        self._chunks = response.aiter_bytes()
        self._deadline = deadline

    async def _chunk(self) -> bytes | None:
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                return await anext(self._chunks, None)
        except TimeoutError as error:
            raise DeadlineExceededError("the server did not end the response in time") from error
        except _BROKEN as error:
            raise error_of_transport(error) from error
        except httpx.StreamError as error:
            raise CancelledError("the response was closed") from error

    async def close(self) -> None:
        await self._response.aclose()


async def _read(response: httpx.Response, seconds: float) -> str:
    """The body of a response, which is closed then."""
    try:
        async with asyncio.timeout(seconds):
            return (await response.aread()).decode("utf-8", errors="replace")
    except TimeoutError as error:
        raise DeadlineExceededError("the server did not end the response in time") from error
    except _BROKEN as error:
        raise error_of_transport(error) from error
    finally:
        await response.aclose()
