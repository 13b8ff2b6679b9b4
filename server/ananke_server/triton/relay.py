"""The relay: what passes between the ``generate_once`` model and the engine, which lives in the process of ``guided_vllm``.

Messages over a socket in the file system that only this user can open. Triton's own way from model to model was tried: its
2.51 runs 32 calls at most for a model, and loses the error of a decoupled call that had a response before, whose caller
then waits for ever.
"""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel

from ananke_client.report import ConstraintReport
from ananke_server.engine.request import Delta, GenerateRequest, GenerateResult
from ananke_server.ownership import owned_path

_LENGTH = struct.Struct("!I")


class Call(msgspec.Struct, tag=True, frozen=True):
    """A request, under a number of the caller's choice."""

    number: int
    request: GenerateRequest


class Abandon(msgspec.Struct, tag=True, frozen=True):
    """Nobody waits for this call's answer any more; it still gets one."""

    number: int


class Answer(msgspec.Struct, tag=True, frozen=True):
    """A call that ended well."""

    number: int
    text: Delta
    result: GenerateResult


class Failure(msgspec.Struct, tag=True, frozen=True):
    """A call that failed; the error as ``to_wire`` writes it."""

    number: int
    error: str


def relay_path() -> Path:
    """Where this Triton server has its relay: the models' processes are children of one server."""
    return owned_path("relay", os.getppid())


def framed(message: Call | Abandon | Answer | Failure) -> bytes:
    """A message as it travels.

    Raises:
        TypeError: something in it cannot travel.
    """
    payload = msgspec.msgpack.encode(message, enc_hook=_encode)
    return _LENGTH.pack(len(payload)) + payload


async def received(reader: asyncio.StreamReader, kind: Any) -> Any:
    """The next message, of one of the kinds that ``kind`` unites; None at the connection's end.

    Raises:
        msgspec.ValidationError: it is of another kind.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        payload = await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return msgspec.msgpack.decode(payload, type=kind, dec_hook=_decode)


def _encode(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"what is of type {type(value).__name__} does not travel")


def _decode(kind: type, value: Any) -> Any:
    return ConstraintReport.model_validate(value) if kind is ConstraintReport else value
