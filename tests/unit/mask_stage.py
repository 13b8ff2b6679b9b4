"""Mask processes and their foreman's rounds on threads of this process, behind a real board, real bells and real connections."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from masking_support import EOS_TOKENS, TOKENIZER, WORDS, Constraint, allowed_by
from numpy.typing import NDArray
from waiting import PATIENCE, wait_until

from ananke_server.masking.board import PARTS, Bell, BoardFile, Size
from ananke_server.masking.foreman import _dispatch
from ananke_server.masking.mask_process import MaskProcess
from ananke_server.masking.mask_store import MaskStore
from ananke_server.masking.matchers import MAX_LEXER_STATES, MatcherPool
from ananke_server.masking.messages import Inbox, Message, packed
from ananke_server.masking.placements import Asked, Placements
from ananke_server.masking.tickets import Failure, Outcome, Ticket
from ananke_server.masking.tokenizer import eos_mask


class MaskStage:
    """The model process's side and the engine's of some mask processes: orders, answers, and steps."""

    def __init__(self, *, rows: int, processes: int, lexer_states: int, parts: int) -> None:
        self.file = BoardFile.create(Size(rows, WORDS, processes, parts))
        self.board = self.file.board()
        self.bell = Bell(self.file.bell[1])
        pairs = [socket.socketpair() for _ in range(processes)]
        self.connections = [ours for ours, _ in pairs]
        self._theirs = [theirs for _, theirs in pairs]
        self._bells = [os.pipe() for _ in pairs]
        self._end = os.pipe()
        masks = MaskStore(WORDS)
        self.crew = [
            MaskProcess(self.board, number, bell, theirs, MatcherPool(TOKENIZER, lexer_states=lexer_states, masks=masks))
            for number, ((bell, _), theirs) in enumerate(zip(self._bells, self._theirs, strict=True))
        ]
        dispatch = (self.board, self.file.bell[0], [Bell(ring) for _, ring in self._bells], [self._end[0]])
        self._foreman = threading.Thread(target=_dispatch, args=dispatch, daemon=True)
        self._foreman.start()
        self.threads = [threading.Thread(target=self._run, args=(process,), daemon=True) for process in self.crew]
        self._inboxes = [Inbox() for _ in pairs]
        self._answers: list[list[Message]] = [[] for _ in pairs]
        self._numbers = 0
        for thread in self.threads:
            thread.start()

    def _run(self, process: MaskProcess) -> None:
        try:
            process.run()
        except BaseException:
            # Nobody may wait for it for ever.
            self.board.open_gates(words_of({*EOS_TOKENS}))
            raise

    def lose(self) -> None:
        """Let the mask processes end as if killed, and open the gates as the crew does then."""
        for connection in self.connections:
            connection.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(PATIENCE)
        self.board.open_gates(words_of({*EOS_TOKENS}))

    def close(self) -> None:
        """Close the connections, at which every process ends."""
        for connection in self.connections:
            connection.close()
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        os.write(self._end[1], b"!")
        self._foreman.join(PATIENCE)
        assert not self._foreman.is_alive()
        for connection in self._theirs:
            connection.close()
        for descriptor in (*self._end, *(end for bell in self._bells for end in bell)):
            os.close(descriptor)
        self.file.close()

    # ---- the model process

    def ticket(self) -> Ticket:
        """A new ticket; the processes take turns."""
        self._numbers += 1
        return Ticket(self._numbers, self._numbers % len(self.crew))

    def order(self, owner: int, *message: Any) -> None:
        self.connections[owner].sendall(packed(list(message)))

    def answer(self, owner: int, kind: str, number: int = 0) -> list[Any]:
        """The rest of the first answer of a kind about a ticket, waited for."""
        answers = self._answers[owner]
        while True:
            for answer in answers:
                if answer[:2] == [kind, number]:
                    answers.remove(answer)
                    return answer[2:]
            wait_until(lambda: bool(select.select([self.connections[owner]], [], [], 0.1)[0]) or not self.threads[owner].is_alive())
            assert self.threads[owner].is_alive(), "the mask process has ended"
            answers += self._inboxes[owner].take(self.connections[owner].recv(1 << 20))

    def prepare(self, program: str, *, of_schema: bool = False) -> tuple[Ticket, Failure]:
        """A ticket whose guide is ready, and why it failed if it did."""
        ticket = self.ticket()
        self.order(ticket.owner, "prepare", ticket.number, program, of_schema)
        failure, _ = self.answer(ticket.owner, "ready", ticket.number)
        return ticket, Failure(failure)

    def open(self, constraint: Constraint) -> Ticket:
        """A ticket whose guide is ready."""
        ticket, failure = self.prepare(constraint.grammar)
        assert failure is Failure.NONE
        return ticket

    def prepare_at(self, owner: int, constraint: Constraint) -> Ticket:
        """A ticket of this process, whose guide is ready."""
        while self.ticket().owner != (owner - 1) % len(self.crew):
            pass
        return self.open(constraint)

    def release(self, ticket: Ticket) -> Outcome:
        self.order(ticket.owner, "release", ticket.number)
        [counts] = self.answer(ticket.owner, "outcome", ticket.number)
        return Outcome(Failure(counts[0]), *counts[1:])

    # ---- the engine

    def placements(self, *, writes: bool = True) -> Placements:
        return Placements(self.board, self.bell, writes=writes)

    def arrive(self, step: int) -> None:
        """Say that the newest tokens of a step are there."""
        self.board.arrived[0] = step

    def wait(self, step: int, asked: Asked) -> None:
        wait_until(lambda: bool((self.board.done[asked.owners, 0] >= step).all()), every=0.0005)

    def masks(self, step: int, asked: Asked) -> dict[int, set[int]]:
        """The tokens that each of a step's masks allows, by logits row, waited for."""
        self.wait(step, asked)
        masks = self.board.masks[self.board.part(step), : asked.masks]
        return {int(mask[WORDS]): set(allowed_by(mask[:WORDS])) for mask in masks}


@contextmanager
def mask_stage(
    *, rows: int = 8, processes: int = 1, lexer_states: int = MAX_LEXER_STATES, parts: int = PARTS
) -> Iterator[MaskStage]:
    """Mask processes that have ended afterwards."""
    stage = MaskStage(rows=rows, processes=processes, lexer_states=lexer_states, parts=parts)
    try:
        yield stage
    finally:
        stage.close()


def words_of(tokens: set[int]) -> NDArray[np.int32]:
    """A mask of these tokens, ``[words]``."""
    words = np.zeros(WORDS, dtype=np.uint32)
    for token in tokens:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words.view(np.int32)


assert np.array_equal(words_of({*EOS_TOKENS}), eos_mask(TOKENIZER, WORDS))
