"""Frames: what passes between the sandbox's processes, a length and as many bytes."""

from __future__ import annotations

import asyncio
import socket
import struct

MAX_FRAME_BYTES = 32 << 20
"""A compiled constraint of more is refused: its grammar would have to travel with every request."""

_LENGTH = struct.Struct("!I")


class FrameTooLargeError(Exception):
    """A frame's length passes ``MAX_FRAME_BYTES``."""


def pack(payload: bytes) -> bytes:
    """The payload as a frame."""
    return _LENGTH.pack(len(payload)) + payload


def receive(connection: socket.socket) -> bytes | None:
    """The next frame's payload; None where the other side has closed.

    Raises:
        FrameTooLargeError: and the connection is of no more use.
        OSError: the connection broke, or its timeout passed.
    """
    header = _exactly(connection, _LENGTH.size)
    return None if header is None else _exactly(connection, _size(header))


async def read(reader: asyncio.StreamReader) -> bytes | None:
    """The same from a stream.

    Raises:
        FrameTooLargeError: and the stream is of no more use.
    """
    try:
        return await reader.readexactly(_size(await reader.readexactly(_LENGTH.size)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def _size(header: bytes) -> int:
    (size,) = _LENGTH.unpack(header)
    if size > MAX_FRAME_BYTES:
        raise FrameTooLargeError
    return int(size)


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    received = bytearray()
    while len(received) < size:
        piece = connection.recv(min(size - len(received), 1 << 20))
        if not piece:
            return None
        received += piece
    return bytes(received)
