"""A proxy on loopback that drops, delays and resets connections, a bounded number of times."""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
import time
from collections import Counter
from typing import Self

CHUNK = 4096
POLL = 0.1
KINDS = ("drop", "reset", "cut", "delay")


class FaultProxy:
    """Passes TCP on to ``port`` of this machine; each connection meets faults, until ``faults`` were met in all.

    ``drop`` closes a connection as it is accepted; ``reset`` and ``cut`` end it behind some bytes of the server's, at most
    ``reach`` of them, the one with a reset and the other in order; ``delay`` holds one piece back for a tenth of a second, and
    is followed by another fault.
    """

    def __init__(self, port: int, *, faults: int, seed: int, reach: int = 3000) -> None:
        self._target = port
        self._left = faults
        self._reach = reach
        self._random = random.Random(seed)
        self._closed = threading.Event()
        self._stalled = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.met: Counter[str] = Counter()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            fault = self._draw(KINDS)
            if fault == "drop":
                self._meet(fault)
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client, fault), daemon=True).start()

    def _draw(self, kinds: tuple[str, ...]) -> str:
        return self._random.choice(kinds) if self._left else "none"

    def _meet(self, fault: str) -> None:
        self._left = max(0, self._left - 1)
        self.met[fault] += 1

    def _serve(self, client: socket.socket, fault: str) -> None:
        with client:
            try:
                with socket.create_connection(("127.0.0.1", self._target), timeout=10) as server:
                    self._pass(client, server, fault)
            except OSError:
                pass  # either side may go at any time

    def _pass(self, client: socket.socket, server: socket.socket, fault: str) -> None:
        """Copies both ways, in one thread: a socket that another one waits for would not be closed."""
        allowance = self._random.randrange(1, self._reach)
        while not self._closed.is_set():
            if self._stalled:
                self._closed.wait(POLL)
                continue
            for source in select.select((client, server), (), (), POLL)[0]:
                if not (data := source.recv(CHUNK)):
                    return
                if source is server and fault != "none" and allowance < len(data):
                    self._meet(fault)
                    if fault != "delay":
                        self._end(client, data[:allowance], fault)
                        return
                    time.sleep(0.1)
                    fault, allowance = self._draw(KINDS[1:]), self._random.randrange(len(data), len(data) + self._reach)
                (server if source is client else client).sendall(data)
                allowance -= len(data) if source is server else 0

    @staticmethod
    def _end(client: socket.socket, rest: bytes, fault: str) -> None:
        client.sendall(rest)
        if fault == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def stall(self) -> None:
        """From now on take connections, and pass nothing on."""
        self._stalled = True

    def close(self) -> None:
        self._closed.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
