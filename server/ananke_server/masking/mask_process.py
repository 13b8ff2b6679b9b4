"""A mask process: guides its share of the constrained requests, one thread for all of them.

Several fill a batch's masks side by side, and none waits for another: each has its own matchers, and the requests of one grammar
in one process share what their lexer has learned. Slow masks they share in a store. They stand apart from the engine, whose thread
has enough to do, and from whatever a grammar might do to the process that works on it.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ananke_server.masking.board import Board
from ananke_server.masking.guides import Guide
from ananke_server.masking.matchers import MatcherPool
from ananke_server.masking.messages import Inbox, Message, packed
from ananke_server.masking.program_matcher import is_pooled
from ananke_server.masking.tickets import Failure, Outcome
from ananke_server.masking.tokenizer import eos_mask

COMPILERS = 2
BELL_BYTES = 4096


class MaskProcess:
    """Answers orders on a connection, and fills this process's masks at each ring, until the connection closes."""

    def __init__(self, board: Board, number: int, bell: int, connection: socket.socket, pool: MatcherPool) -> None:
        self._board = board
        self._number = number
        self._bell = bell
        self._connection = connection
        self._pool = pool
        self._ends = eos_mask(pool.tokenizer, board.size.words)
        self._guides: dict[int, Guide] = {}
        self._preparing: set[int] = set()
        self._lock = threading.Lock()
        self._compilers = ThreadPoolExecutor(COMPILERS, thread_name_prefix="ananke-compile")
        self._inbox = Inbox()
        self._done = int(board.done[number, 0])
        self._last: tuple[int, list[Guide]] = (0, [])
        self._times: Counter[str] = Counter()

    def run(self) -> None:
        """Work until the connection closes."""
        self._connection.setblocking(False)
        os.set_blocking(self._bell, False)
        while True:
            ready, _, _ = select.select([self._bell, self._connection.fileno()], [], [])
            if self._connection.fileno() in ready and not self._take_orders():
                break
            if self._bell in ready:
                os.read(self._bell, BELL_BYTES)
                arrived = int(self._board.arrived[0])
                for step in sorted(int(step) for step in self._board.announced):
                    if self._done < step == arrived:
                        self._fill(step)
        self._compilers.shutdown(wait=False, cancel_futures=True)

    def _fill(self, step: int) -> None:
        """Fill this process's masks of a step whose newest tokens have arrived."""
        board, part = self._board, self._board.part(step)
        begun, found = time.perf_counter_ns(), self._pool.found
        rows = board.asked(step)
        mine = np.flatnonzero(rows["owner"] == self._number)
        asked = rows[mine]
        self._note_wait(step)
        slots = asked["slot"]
        lengths = (board.lengths[slots] - asked["prompt"].astype(np.int32)).tolist()
        newest = board.tokens[slots].tolist()
        masks, words = board.masks[part], board.size.words
        base, stride = masks.ctypes.data, masks.strides[0]
        filled = []
        for row, ticket, placement, length, token in zip(
            mine.tolist(), asked["ticket"].tolist(), asked["placement"].tolist(), lengths, newest, strict=True
        ):
            guide = self._guides.get(ticket)
            if guide is not None:
                guide.place(placement)
                filled.append(guide)
            # Nobody waits for a request that has been released; the engine may still have it in a step.
            if guide is None or not self._filled(guide, length, token, base + row * stride):
                masks[row, :words] = self._ends
        board.done[self._number, 0] = self._done = step
        self._last = (step, filled)
        self._times.update(steps=1, rows=len(mine), found=self._pool.found - found, filled_ns=time.perf_counter_ns() - begun)

    def _note_wait(self, step: int) -> None:
        """How long the engine waited for the masks of the step before: known now that its tokens are there, and not much longer."""
        last, guides = self._last
        logits_there, masks_there = self._board.stamps[self._board.part(last)].tolist()
        if last == step - 1 and logits_there:
            for guide in guides:
                guide.record.wait_ns.append(max(0, masks_there - logits_there))

    def _filled(self, guide: Guide, length: int, newest: int, address: int) -> bool:
        try:
            return guide.fill(length, newest, address, self._board.size.words)
        except BaseException as fault:  # one request's, and no reason to leave the others
            guide.fail(Failure.INTERNAL, f"{type(fault).__name__}: {fault}")
            return False

    # ---- orders

    def _take_orders(self) -> bool:
        """Carry out what has been ordered; false where the connection has closed."""
        messages = self._inbox.receive(self._connection)
        if messages is None:
            return False
        for message in messages:
            match message:
                case ["prepare", ticket, program, of_schema]:
                    self._prepare(ticket, program, of_schema)
                case ["release", ticket]:
                    self._say(["outcome", ticket, list(self._release(ticket))])
                case ["times", number]:
                    self._say(["times", number, dict(self._times)])
                    self._times.clear()
        return True

    def _prepare(self, ticket: int, program: str, of_schema: bool) -> None:
        self._preparing.add(ticket)
        if self._is_quick(program):
            self._make(ticket, program, of_schema)
        else:
            self._compilers.submit(self._make, ticket, program, of_schema)

    def _is_quick(self, program: str) -> bool:
        try:
            return is_pooled(self._pool, program)
        except Exception:
            return True  # no program at all, which making it will say

    def _make(self, ticket: int, program: str, of_schema: bool) -> None:
        """Make a guide and say so; on a thread of its own where that takes long."""
        try:
            guide = Guide.of(self._pool, program, of_schema=of_schema)
        except BaseException as fault:  # a panic of Rust's is no Exception, and somebody waits
            self._say(["ready", ticket, Failure.INTERNAL, f"{type(fault).__name__}: {fault}"])
            return
        with self._lock:
            if ticket in self._preparing:
                self._preparing.discard(ticket)
                self._guides[ticket] = guide
        self._say(["ready", ticket, guide.record.failure, guide.record.message])

    def _release(self, ticket: int) -> Outcome:
        with self._lock:
            self._preparing.discard(ticket)
            guide = self._guides.pop(ticket, None)
        return Outcome() if guide is None else guide.record.outcome()

    def _say(self, message: Message) -> None:
        data = packed(message)
        with self._lock:
            send_all(self._connection, data)


def send_all(connection: socket.socket, data: bytes) -> None:
    """Send on a connection that does not block, however long it takes; what nobody reads any more is lost."""
    view = memoryview(data)
    while view:
        try:
            view = view[connection.send(view) :]
        except BlockingIOError:
            select.select([], [connection], [])
        except OSError:
            return
