"""Messages between the model process and its mask processes: short lists, packed, each behind its length."""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgspec

_LENGTH = struct.Struct("!I")
_RECEIVED_AT_ONCE = 1 << 20

Message = list[Any]


def packed(message: Message) -> bytes:
    """A message as it travels."""
    payload = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(payload)) + payload


class Inbox:
    """What has come of messages, in pieces of any size."""

    def __init__(self) -> None:
        self._received = bytearray()

    def take(self, piece: bytes) -> list[Message]:
        """The messages that are whole by now."""
        self._received += piece
        messages = []
        while len(self._received) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._received)
            end = _LENGTH.size + size
            if len(self._received) < end:
                break
            messages.append(msgspec.msgpack.decode(self._received[_LENGTH.size : end]))
            del self._received[:end]
        return messages

    def receive(self, connection: socket.socket) -> list[Message] | None:
        """What a connection that does not block has to give; None where the other side has closed it."""
        try:
            piece = connection.recv(_RECEIVED_AT_ONCE)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        return self.take(piece) if piece else None
