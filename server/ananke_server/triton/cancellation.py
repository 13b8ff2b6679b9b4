"""Cancellation: which of the requests under way nobody waits for any longer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, Self

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1


class Cancellable(Protocol):
    def is_cancelled(self) -> bool: ...


class CancellationWatch:
    """Asks for all requests under way every 0.1 s, from one thread that sleeps while there are none.

    Asking is a round trip to Triton's process, for which the event loop must not wait.
    """

    def __init__(self) -> None:
        self._watched: dict[Cancellable, Callable[[], object]] = {}
        self._lock = threading.Lock()
        self._any = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ananke-cancellation", daemon=True)
        self._thread.start()

    @contextmanager
    def over(self, request: Cancellable, cancel: Callable[[], object]) -> Iterator[None]:
        """Watch a request within the ``with`` block; ``cancel`` is called, from the watch's thread, once at most."""
        with self._lock:
            self._watched[request] = cancel
            self._any.set()
        try:
            yield
        finally:
            with self._lock:
                self._watched.pop(request, None)
                if not self._watched:
                    self._any.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._any.set()
        self._thread.join()

    def _run(self) -> None:
        while self._any.wait() and not self._closing.wait(POLL_SECONDS):
            with self._lock:
                watched = list(self._watched.items())
            for request, cancel in watched:
                if _is_cancelled(request):
                    self._cancel(request, cancel)

    def _cancel(self, request: Cancellable, cancel: Callable[[], object]) -> None:
        # Under the lock, so that it is not called after the block's end.
        with self._lock:
            if self._watched.pop(request, None) is not None:
                cancel()


def _is_cancelled(request: Cancellable) -> bool:
    try:
        return request.is_cancelled()
    except Exception:
        logger.exception("whether a request is cancelled could not be told")
        return False
