"""Commands: what a client tells the engine's model about generations under way, or asks of it, apart from their own calls.

Triton 2.51 does not pass the end of a call on to a running step of an ensemble, so the end of one is told by a command.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Literal, Protocol

from ananke_client.errors import InternalError
from ananke_client.health import EngineStatus
from ananke_client.response import Outputs

ENGINE_MODEL = "guided_vllm"
"""The model that takes commands."""

PATIENCE = 3.0
"""Seconds that the cancels which nobody asked for may take, all that are sent together."""

MOST_NAMES = 500
"""Names in one command."""

Verb = Literal["cancel", "renew", "status"]

_log = logging.getLogger("ananke_client")


class Commander(Protocol):
    """The part of a transport that carries commands."""

    async def command(self, model: str, verb: Verb, value: str | bool, timeout: float) -> Outputs: ...


class Commands:
    """Commands over one transport; a name is a request id, or the attempt id of one try."""

    def __init__(self, transport: Commander, model: str) -> None:
        self._transport = transport
        self._model = model

    async def give(self, verb: Verb, names: Sequence[str], timeout: float) -> bool:
        """Whether the command found a generation of one of these names, which it carries one a line, under way.

        Raises:
            AnankeError: the server cannot be reached, or does not know the command.
        """
        outputs = await self._transport.command(self._model, verb, "\n".join(names), timeout)
        if not isinstance(running := outputs.get("running"), bool):
            raise InternalError(f"the answer to {verb} has no 'running'")
        return running

    async def status(self, timeout: float) -> EngineStatus:
        """What the engine says of itself.

        Raises:
            AnankeError: as ``give``.
        """
        outputs = await self._transport.command(self._model, "status", True, timeout)
        return EngineStatus.parse(str(outputs.get("status", "")))

    async def try_all(self, verb: Verb, names: Sequence[str], *, patience: float = PATIENCE) -> None:
        """The same command for many names, as far as it goes: ends after ``patience`` seconds, or where one fails. Raises: never."""
        end = time.monotonic() + patience
        for start in range(0, len(names), MOST_NAMES):
            if (left := end - time.monotonic()) <= 0:
                return
            some = names[start : start + MOST_NAMES]
            try:
                await self.give(verb, some, left)
            except Exception as error:
                _log.info("%s of %s failed: %s", verb, ", ".join(some), error)
                return
