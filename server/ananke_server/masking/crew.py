"""The crew: the mask processes as the model process sees them, given orders and asked what they have counted."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any

from llguidance import LLTokenizer

from ananke_server.cores import available
from ananke_server.masking.board import PARTS, BoardFile, Size
from ananke_server.masking.messages import Inbox, Message, packed
from ananke_server.masking.tickets import Failure, Outcome, Ticket
from ananke_server.masking.tokenizer import TokenizerSource, eos_mask, mask_words

logger = logging.getLogger(__name__)

LEFT_TO_THE_ENGINE = 4
"""Cores for the engine's thread, the models' processes, Triton and the sandbox."""
MOST_BY_DEFAULT = 16
"""With more of them a step of 128 requests waits no less for its masks, and they take more of the cores' time."""
_GATES_OPENED_AGAIN = (0.05, 0.5)


class CrewDeadError(Exception):
    """The mask processes have ended."""


def default_processes() -> int:
    """Mask processes for this machine: its cores, less those left to the engine."""
    return max(1, min(MOST_BY_DEFAULT, len(available()) - LEFT_TO_THE_ENGINE))


class MaskCrew:
    """Mask processes, started together; where one ends, all do. Every method belongs to the event loop that ``start`` ran on."""

    def __init__(self, file: BoardFile, process: subprocess.Popen[bytes], connections: list[socket.socket], tokenizer: LLTokenizer) -> None:
        self.board = file.board()
        self.address = file.address
        self.processes = len(connections)
        self._file = file
        self._process = process
        self._connections = connections
        self._ends = eos_mask(tokenizer, self.board.size.words)
        self._loop = asyncio.get_running_loop()
        self._answers: dict[tuple[str, int, int], asyncio.Future[Any]] = {}
        self._outgoing = [bytearray() for _ in connections]
        self._questions = 0
        self._closing = False
        self.is_dead = False
        for number, connection in enumerate(connections):
            connection.setblocking(False)
            self._expect("up", number, 0)
            self._loop.add_reader(connection.fileno(), self._listen, number, Inbox())

    @classmethod
    def start(
        cls, source: TokenizerSource, tokenizer: LLTokenizer, *, rows: int, processes: int, lexer_states: int, parts: int = PARTS
    ) -> MaskCrew:
        """Start the processes; returns at once. They take about a second to come up.

        Args:
            source: the tokenizer for the processes.
            tokenizer: the same, loaded.
            rows: of the engine's largest batch.
            parts: steps that may be under way.
        """
        file = BoardFile.create(Size(rows, mask_words(tokenizer), processes, parts))
        pairs = [socket.socketpair() for _ in range(processes)]
        theirs = [pair[1].fileno() for pair in pairs]
        descriptors = [file.memory, file.bell[0], *theirs]
        process = subprocess.Popen(
            [sys.executable, "-m", "ananke_server.masking.foreman", str(lexer_states), *map(str, descriptors)],
            stdin=subprocess.PIPE,
            pass_fds=descriptors,
            # A group of their own, by which all of them can be killed at once.
            process_group=0,
            # Triton's Python has the packages on a path of its own making.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for _, their in pairs:
            their.close()
        crew = cls(file, process, [ours for ours, _ in pairs], tokenizer)
        assert process.stdin is not None
        feed = json.dumps({"text": source.text, "ends": source.ends}).encode()
        crew._loop.run_in_executor(None, _feed, process, feed)
        return crew

    async def wait_until_up(self) -> None:
        """Return once every process takes orders.

        Raises:
            CrewDeadError: they ended before.
        """
        if self.is_dead:
            raise CrewDeadError()
        await asyncio.gather(*(self._answers[key] for key in list(self._answers) if key[0] == "up"))

    async def prepare(self, ticket: Ticket, program: str, *, of_schema: bool = False) -> tuple[Failure, str]:
        """Have a ticket's guide made ready; returns why it failed, if it did.

        Args:
            of_schema: as ``ProgramMatcher.of`` has it.

        Raises:
            CrewDeadError: the processes have ended.
        """
        answer = self._ask("ready", ticket, ["prepare", ticket.number, program, of_schema])
        failure, message = await answer
        return Failure(failure), message

    def release(self, ticket: Ticket) -> asyncio.Future[Outcome]:
        """Let go of a ticket's guide; the future has what was counted, or ``CrewDeadError``. It need not be awaited."""
        answer = self._ask("outcome", ticket, ["release", ticket.number])
        # What nobody awaits must not be complained about.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        return answer

    async def times(self) -> list[dict[str, int]]:
        """For each process since the last call: steps, rows, those whose masks were found in the store, and the ns that filling took.

        Raises:
            CrewDeadError: the processes have ended.
        """
        self._questions += 1
        asked = [self._ask("times", Ticket(self._questions, process), ["times", self._questions]) for process in range(self.processes)]
        return list(await asyncio.gather(*asked))

    def close(self) -> None:
        """End the processes; the engine must have ended before."""
        self._closing = True
        self._bury()
        self._process.wait()
        self._file.close()

    def _ask(self, kind: str, ticket: Ticket, order: Message) -> asyncio.Future[Any]:
        answer = self._expect(kind, ticket.owner, ticket.number)
        if self.is_dead:
            answer.set_exception(CrewDeadError())
            return answer
        waiting = self._outgoing[ticket.owner]
        waiting += packed(order)
        self._send(ticket.owner)
        return answer

    def _expect(self, kind: str, process: int, number: int) -> asyncio.Future[Any]:
        key = (kind, process, number)
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._answers[key] = answer
        answer.add_done_callback(lambda _: self._answers.pop(key, None))
        return answer

    def _send(self, process: int) -> None:
        connection, waiting = self._connections[process], self._outgoing[process]
        try:
            del waiting[: connection.send(waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self._bury()
            return
        if waiting:
            self._loop.add_writer(connection.fileno(), self._send, process)
        else:
            self._loop.remove_writer(connection.fileno())

    def _listen(self, process: int, inbox: Inbox) -> None:
        messages = inbox.receive(self._connections[process])
        if messages is None:
            self._bury()
            return
        for kind, number, *rest in messages:
            answer = self._answers.get((kind, process, number))
            if answer is not None and not answer.done():
                answer.set_result(Outcome(Failure(rest[0][0]), *rest[0][1:]) if kind == "outcome" else rest[0] if len(rest) == 1 else rest)

    def _bury(self) -> None:
        """Let go of everybody who waits for a process: one has ended, and the others are of no use without it."""
        if self.is_dead:
            return
        self.is_dead = True
        if not self._closing:
            logger.error("a mask process has ended: nothing constrained can be generated any more")
        for connection in self._connections:
            self._loop.remove_reader(connection.fileno())
            self._loop.remove_writer(connection.fileno())
            connection.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # Again after a while: what a process wrote with its last breath must not close a gate.
        self.board.open_gates(self._ends)
        for seconds in _GATES_OPENED_AGAIN:
            self._loop.call_later(seconds, self.board.open_gates, self._ends)
        for answer in list(self._answers.values()):
            if not answer.done():
                answer.set_exception(CrewDeadError())


def _feed(process: subprocess.Popen[bytes], content: bytes) -> None:
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            pipe.write(content)
    except OSError:
        # It has ended, which its closed connections tell.
        pass
