"""Responses: the answers of all requests on their way to Triton, sent from two threads so that the event loop never waits for it.

Sending one is a round trip to Triton's process. A stream's pieces leave at once while the threads keep up; what comes
meanwhile waits with its request, and leaves as one response when that request's turn comes. Triton itself takes
responses without bound, whether a client reads them or not, so it is these threads alone that can be behind.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from typing import Any

import triton_python_backend_utils as pb_utils

from ananke_server.engine.request import Delta, GenerateResult, joined
from ananke_server.triton.codec import encode_answer, encode_delta, encode_result, triton_error

logger = logging.getLogger(__name__)

THREADS = 2
"""While one waits for Triton the other can send. More of them would take the event loop's time: with four, a loop that was busy for
seven eighths of its time needed 30 % longer for the same tokens."""
DRAIN_SECONDS = 15.0
"""For requests under way when a model ends: less than the 28 s that Triton waits at its exit, as the engine's end takes some of them."""
_CLOSE_SECONDS = 10.0


class ResponsePipe:
    """Takes turns between the requests that have something to send, each in the queue at most once."""

    def __init__(self) -> None:
        self.sent = 0
        """Responses that Triton took."""
        self.coalesced = 0
        """Pieces of streams that got no response of their own, since the threads were behind."""
        self._ready: queue.SimpleQueue[Responses | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, name="ananke-responses", daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def open(self, sender: Any, outputs: frozenset[str] = frozenset(), *, stream: bool = False) -> Responses:
        """The responses of one request, with these outputs, until ``finish``, ``answer`` or ``fail`` is called on them."""
        return Responses(self._ready, sender, outputs, stream=stream)

    def close(self) -> None:
        """Send what is ready, and end; waits for at most ten seconds."""
        self._ready.put(None)
        end = time.monotonic() + _CLOSE_SECONDS
        for thread in self._threads:
            thread.join(timeout=max(0.0, end - time.monotonic()))

    def _run(self) -> None:
        while (responses := self._ready.get()) is not None:
            self._send(responses)
        with contextlib.suppress(queue.Empty):
            while True:
                if (responses := self._ready.get_nowait()) is not None:
                    self._send(responses)
        # For the next thread.
        self._ready.put(None)

    def _send(self, responses: Responses) -> None:
        sent, coalesced = responses.send()
        with self._lock:
            self.sent += sent
            self.coalesced += coalesced


class Responses:
    """One request's responses: pieces of text where it streams, and exactly one final response, in this order.

    ``add``, ``finish``, ``answer`` and ``fail`` belong to one thread, ``send`` to one of the pipe's at a time, and any may call
    ``is_cancelled``.
    Tokens without text of their own (half a character, the end of the sequence) wait for the next response.
    """

    def __init__(self, ready: queue.SimpleQueue[Responses | None], sender: Any, outputs: frozenset[str], *, stream: bool) -> None:
        self.tokens = 0
        """Tokens of the deltas so far."""
        self._ready = ready
        self._sender = sender
        self._outputs = outputs
        self._stream = stream
        self._lock = threading.Lock()
        self._waiting: list[Delta] = []
        self._pieces = 0
        self._end: GenerateResult | bool | str | Exception | None = None
        self._queued = False
        # Triton frees what is_cancelled reads once it has the final response.
        self._closing = threading.Lock()
        self._closed = False
        self._failed_to_send = False

    def add(self, delta: Delta) -> None:
        """Text was generated: it leaves as soon as it can where the request streams, else with the result. Never blocks."""
        self.tokens += delta.tokens
        with self._lock:
            self._waiting.append(delta)
            if not (self._stream and delta.text):
                return
            self._pieces += 1
            queued, self._queued = self._queued, True
        if not queued:
            self._ready.put(self)

    def finish(self, result: GenerateResult) -> None:
        """The request has ended well: the final response carries the rest of its text. Never blocks."""
        self._end_with(result)

    def answer(self, answer: bool | str) -> None:
        """The request was a command: the final response says whether it found a request under way, or what it asked. Never blocks."""
        self._end_with(answer)

    def fail(self, error: Exception) -> None:
        """The request has failed: the final response is an error, after the text that a stream still has to send. Never blocks."""
        self._end_with(error)

    def is_cancelled(self) -> bool:
        """Whether nobody takes the responses any more; a round trip to Triton's process, tens of microseconds or more."""
        with self._closing:
            return self._failed_to_send or (not self._closed and bool(self._sender.is_cancelled()))

    def send(self) -> tuple[int, int]:
        """Send what waits, as one response if possible; a failure ends the request with an error.

        Returns:
            How many responses Triton took, and how many pieces of a stream got none of their own.
        """
        with self._lock:
            waiting, self._waiting = self._waiting, []
            pieces, self._pieces = self._pieces, 0
            end = self._end
        if self._closed:
            return 0, 0
        try:
            sent = self._send(waiting, pieces, end)
        except Exception as fault:
            logger.exception("a response could not be built or sent")
            self._failed_to_send = True
            sent = self._send_error(fault), pieces
        if self._closed:
            # A sender that is still held by a cycle, as through an error's traceback, crashes the process at its exit.
            self._sender = self._end = None
        else:
            self._queue_again()
        return sent

    def _send(self, waiting: list[Delta], pieces: int, end: GenerateResult | bool | str | Exception | None) -> tuple[int, int]:
        if isinstance(end, (GenerateResult, bool, str)):
            if isinstance(end, GenerateResult):
                response = encode_result(joined(waiting), end, self._outputs)
            else:
                response = encode_answer(end, self._outputs)
            self._close()
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return 1, pieces
        sent = min(1, pieces)
        if pieces:
            self._sender.send(encode_delta(joined(waiting), self._outputs))
        if end is not None:
            sent += self._send_error(end)
        return sent, max(0, pieces - 1)

    def _send_error(self, error: Exception) -> int:
        if self._closed:
            return 0
        self._close()
        try:
            response = pb_utils.InferenceResponse(error=triton_error(error))
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception:
            logger.exception("an error could not be sent")
            return 0
        return 1

    def _close(self) -> None:
        with self._closing:
            self._closed = True

    def _end_with(self, end: GenerateResult | bool | str | Exception) -> None:
        with self._lock:
            self._end = end
            queued, self._queued = self._queued, True
        if not queued:
            self._ready.put(self)

    def _queue_again(self) -> None:
        """Go to the end of the queue if something has come meanwhile."""
        with self._lock:
            self._queued = again = self._pieces > 0 or self._end is not None
        if again:
            self._ready.put(self)
