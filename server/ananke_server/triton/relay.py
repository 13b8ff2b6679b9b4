"""The relay: what passes between the models that call the engine and the engine, which lives in the process of ``guided_vllm``.

Messages over a socket in the file system that only this user can open. Triton's own way from model to model was tried: its
2.51 runs 32 calls at most for a model, and loses the error of a decoupled call that had a response before, whose caller
then waits for ever.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from pydantic import BaseModel

from ananke_client.report import ConstraintReport
from ananke_server.engine.request import Delta, GenerateRequest, GenerateResult
from ananke_server.ownership import owned_path

_HEAD = struct.Struct("!IQ")
"""A payload's length, and the number of the call that it is about: what cannot be read concerns that call alone."""
_CHUNK = 1 << 18


class Call(msgspec.Struct, tag=True, frozen=True):
    """A request, under a number of the caller's choice."""

    number: int
    request: GenerateRequest


class Abandon(msgspec.Struct, tag=True, frozen=True):
    """Nobody waits for this call's answer any more; it still gets one."""

    number: int


class Piece(msgspec.Struct, tag=True, frozen=True):
    """Text of a call that streams."""

    number: int
    text: Delta


class Answer(msgspec.Struct, tag=True, frozen=True):
    """A call that ended well, with the text that no piece had."""

    number: int
    text: Delta
    result: GenerateResult


class Failure(msgspec.Struct, tag=True, frozen=True):
    """A call that failed; the error as ``to_wire`` writes it."""

    number: int
    error: str


Message = Call | Abandon | Piece | Answer | Failure


class Unreadable(NamedTuple):
    """Stands for a message about a call that is not what it should be."""

    number: int
    fault: str


def relay_path() -> Path:
    """Where this Triton server has its relay: the models' processes are children of one server."""
    return owned_path("relay", os.getppid())


def framed(message: Message) -> bytes:
    """A message as it travels.

    Raises:
        TypeError: something in it cannot travel.
    """
    payload = _ENCODER.encode(message)
    return _HEAD.pack(len(payload), message.number) + payload


async def messages(reader: asyncio.StreamReader, kind: Any) -> AsyncIterator[Any]:
    """The messages until the connection's end, each of one of the kinds that ``kind`` unites, or ``Unreadable``."""
    decoder = msgspec.msgpack.Decoder(kind, dec_hook=_decode)
    waiting = bytearray()
    while chunk := await _next_chunk(reader):
        waiting += chunk
        begin = 0
        while (payload := begin + _HEAD.size) <= len(waiting):
            length, number = _HEAD.unpack_from(waiting, begin)
            if (end := payload + length) > len(waiting):
                break
            with memoryview(waiting)[payload:end] as view:
                message = _read(decoder, view, number)
            yield message
            begin = end
        del waiting[:begin]


def _read(decoder: msgspec.msgpack.Decoder[Any], payload: memoryview, number: int) -> Any:
    try:
        return decoder.decode(payload)
    except Exception as fault:
        return Unreadable(number, f"{type(fault).__name__}: {fault}")


async def _next_chunk(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_CHUNK)
    except ConnectionError:
        return b""


def _encode(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"what is of type {type(value).__name__} does not travel")


def _decode(kind: type, value: Any) -> Any:
    return ConstraintReport.model_validate(value) if kind is ConstraintReport else value


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encode)
