"""A server on loopback whose answers come a byte at a time."""

from __future__ import annotations

import socket
import threading
import time
from typing import Self


class DrippingServer:
    """Answers whatever comes on a connection with ``quick``, at once, and then a space every ``pace`` seconds, for 20 s.

    ``open`` counts the connections whose clients have not closed them.
    """

    def __init__(self, quick: bytes, *, pace: float = 0.1) -> None:
        self._quick = quick
        self._pace = pace
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._lock = threading.Lock()
        self.port: int = self._listener.getsockname()[1]
        self.open = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self.open += 1
        try:
            with client:
                client.recv(1 << 16)
                client.sendall(self._quick)
                end = time.monotonic() + 60
                while time.monotonic() < end:
                    time.sleep(self._pace)
                    client.sendall(b" ")
        except OSError:
            pass  # the client has gone
        finally:
            with self._lock:
                self.open -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
