"""Socket transport: httpx's requests over httpcore's pool, each read and write bounded by the thread's ``Wait``.

httpx bounds each read of a socket, not all of a response's: a peer that sends a byte now and then would hold a thread for as long as
it likes. Its own transport takes no network backend, httpcore's pool does.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import httpx

from ananke_client.wait import wait_here

_ERRORS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)


class SocketTransport(httpx.BaseTransport):
    """Connections that are kept and used again.

    Args:
        context: whom to trust over https, and who the client is.
        proxy: the URL of a proxy, None for none.
        limits: how many connections are open, and kept.

    Raises:
        httpx.TransportError: by requests.
    """

    def __init__(self, context: ssl.SSLContext, proxy: str | None, limits: httpx.Limits) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            proxy=None if proxy is None else _proxy(httpx.Proxy(proxy)),
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_Backend(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with _as_httpx():
            response = self._pool.handle_request(
                httpcore.Request(
                    request.method,
                    str(request.url),
                    headers=request.headers.raw,
                    content=_chunks(request.stream),
                    extensions=request.extensions,
                )
            )
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response), extensions=response.extensions)

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx():
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


class _Backend(httpcore.NetworkBackend):
    def __init__(self) -> None:
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        with _bounded(None, timeout, httpcore.ConnectTimeout) as patience:
            return _Stream(self._sockets.connect_tcp(host, port, patience, local_address, socket_options))


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _bounded(self._stream, timeout, httpcore.ReadTimeout) as patience:
            return self._stream.read(max_bytes, patience)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _bounded(self._stream, timeout, httpcore.WriteTimeout) as patience:
            self._stream.write(buffer, patience)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        with _bounded(self._stream, timeout, httpcore.ConnectTimeout) as patience:
            return _Stream(self._stream.start_tls(ssl_context, server_hostname, patience))

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


@contextlib.contextmanager
def _bounded(stream: httpcore.NetworkStream | None, timeout: float | None, late: type[Exception]) -> Iterator[float | None]:
    """The timeout of one wait for a stream, or for its connection, which the thread's ``Wait`` may end before."""
    if (wait := wait_here()) is None:
        yield timeout
        return
    try:
        with wait.on(None if stream is None else stream.get_extra_info("socket")) as left:
            yield left if timeout is None else min(timeout, left)
    except TimeoutError as error:
        raise late("the deadline passed") from error


@contextlib.contextmanager
def _as_httpx() -> Iterator[None]:
    """httpcore's errors as those of the same names that httpx has."""
    try:
        yield
    except _ERRORS as error:
        raise getattr(httpx, type(error).__name__)(str(error)) from error


def _chunks(stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> Iterable[bytes]:
    assert isinstance(stream, httpx.SyncByteStream)
    return stream


def _proxy(proxy: httpx.Proxy) -> httpcore.Proxy:
    return httpcore.Proxy(str(proxy.url), auth=proxy.raw_auth, headers=proxy.headers.raw, ssl_context=proxy.ssl_context)
