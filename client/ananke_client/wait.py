"""Waits: a thread's waits for sockets, which a deadline or another thread ends."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from types import TracebackType

import httpx

from ananke_client.deadline import Deadline
from ananke_client.errors import CancelledError, DeadlineExceededError

_here = threading.local()


class Wait:
    """All waits of one exchange over HTTP. A thread is in its ``with`` block whenever it may wait, one thread at a time.

    ``SocketTransport`` has each read and write of a socket in such a block bounded by what is left of the deadline, however
    little comes with each.

    Args:
        seconds: from now to the deadline.

    Raises:
        CancelledError: by the block, on entering and on leaving it, since the wait was cut off.
        DeadlineExceededError: on entering it, since the deadline has passed.
    """

    def __init__(self, seconds: float) -> None:
        self._deadline = Deadline(seconds)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._own: socket.socket | None = None
        self._busy = self._cut = False

    def remaining(self) -> float:
        """Seconds left.

        Raises:
            DeadlineExceededError: none is.
        """
        return self._deadline.remaining()

    @property
    def over(self) -> bool:
        """Whether nobody may wait any more."""
        return self._cut or self._deadline.left() <= 0

    def cut(self) -> bool:
        """Ends the wait for good; returns whether a thread is in the block, which then wakes and is the one to clear up."""
        with self._lock:
            self._cut = True
            if (waited := self._socket or (self._own if self._busy else None)) is not None:
                # Closing a socket wakes nobody; and TLS has a shutdown of its own, which would wait for the peer.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(waited, socket.SHUT_RDWR)
            return self._busy

    def take(self, response: httpx.Response) -> None:
        """Have the block wait for this response, which may come over a transport that knows of no wait."""
        stream = response.extensions.get("network_stream")
        connection = None if stream is None else stream.get_extra_info("socket")
        self._own = connection if isinstance(connection, socket.socket) else None

    def meaning(self, error: Exception) -> Exception:
        """What a failure of this wait means: that it was cut off or late, or what it says itself."""
        if self._cut:
            return CancelledError("the wait was cut off")
        return DeadlineExceededError("the server did not answer in time") if self._deadline.left() <= 0 else error

    def __enter__(self) -> None:
        with self._lock:
            if self._cut:
                raise CancelledError("the wait was cut off")
            self._deadline.remaining()
            self._busy = True
        _here.wait = self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _here.wait = None
        with self._lock:
            self._busy = False
            if self._cut and error is None:
                raise CancelledError("the wait was cut off")

    @contextlib.contextmanager
    def on(self, connection: socket.socket | None) -> Iterator[float]:
        """Seconds that the thread may wait for this socket within the block.

        Raises:
            TimeoutError: none are left, or the wait was cut off.
        """
        with self._lock:
            if (left := self._deadline.left()) <= 0 or self._cut:
                raise TimeoutError
            self._socket = connection
        try:
            yield left
        finally:
            with self._lock:
                self._socket = None


def wait_here() -> Wait | None:
    """The wait whose block this thread is in."""
    wait: Wait | None = getattr(_here, "wait", None)
    return wait
