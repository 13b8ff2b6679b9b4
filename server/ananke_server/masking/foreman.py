"""The foreman: the process that has the tokenizer, forks the mask processes, which share its memory, and calls them to work.

    python -m ananke_server.masking.foreman LEXER_STATES BOARD BELL CONNECTION...      (file descriptors)

It reads the tokenizer as one JSON object from standard input. When the engine has announced a step it looks out for the
tokens that were sampled last, so that the mask processes sleep until there is something to do, and the engine has one
to ring instead of all. It ends when one of its processes does, and ends the others.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
from contextlib import suppress

import numpy as np

from ananke_server.heap import settle
from ananke_server.masking.board import Bell, Board, mapped
from ananke_server.masking.mask_process import BELL_BYTES, MaskProcess, send_all
from ananke_server.masking.mask_store import MaskStore
from ananke_server.masking.matchers import MatcherPool
from ananke_server.masking.messages import packed
from ananke_server.masking.tokenizer import TokenizerSource, eos_mask

ARRIVAL_PAUSE = 20e-6
_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    lexer_states, *descriptors = map(int, sys.argv[1:])
    # They have the numbers of the model process, which may be larger than select takes.
    memory, bell, *connections = map(os.dup, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    content = json.load(sys.stdin.buffer)
    tokenizer = TokenizerSource(content["text"], tuple(content["ends"])).load()
    del content
    settle()
    board = mapped(memory)
    masks = MaskStore(board.size.words)
    bells = [os.pipe() for _ in connections]
    pools = [MatcherPool(tokenizer, lexer_states=lexer_states, masks=masks) for _ in connections]
    children = [_fork(board, number, bells[number][0], connections, pool) for number, pool in enumerate(pools)]
    for descriptor in (*connections, *(listen for listen, _ in bells)):
        os.close(descriptor)
    try:
        _dispatch(board, bell, [Bell(ring) for _, ring in bells], [os.pidfd_open(child) for child in children])
    finally:
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        # The model process does so too, but it may be the one that has died.
        board.open_gates(eos_mask(tokenizer, board.size.words))


def _dispatch(board: Board, bell: int, bells: list[Bell], processes: list[int]) -> None:
    """Ring the mask processes of each step once its newest tokens have arrived; returns when one has ended."""
    # A sleep of 20 us takes 70 else.
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000)
    dispatched = 0
    while True:
        ready, _, _ = select.select([bell, *processes], [], [])
        if ready != [bell]:
            return
        os.read(bell, BELL_BYTES)
        for step in sorted(int(step) for step in board.announced if step > dispatched):
            while int(board.arrived[0]) < step:
                if select.select(processes, [], [], ARRIVAL_PAUSE)[0]:
                    return
            for owner in np.unique(board.asked(step)["owner"]).tolist():
                bells[owner].ring()
            dispatched = step


def _fork(board: Board, number: int, bell: int, connections: list[int], pool: MatcherPool) -> int:
    if pid := os.fork():
        return pid
    try:
        # Without its foreman nobody would know that it is there.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for other, connection in enumerate(connections):
            if other != number:
                os.close(connection)
        orders = socket.socket(fileno=connections[number])
        process = MaskProcess(board, number, bell, orders, pool)
        send_all(orders, packed(["up", 0]))
        process.run()
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


if __name__ == "__main__":
    main()
