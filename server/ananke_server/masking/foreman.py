"""The foreman: the process that has the tokenizer, and forks the mask processes, which share its memory.

    python -m ananke_server.masking.foreman BOARD LEXER_STATES BELL:CONNECTION...      (file descriptors)

It reads the tokenizer as one JSON object from standard input. It ends when one of its processes does, and ends the others.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import socket
import sys
from contextlib import suppress

from llguidance import LLTokenizer

from ananke_server.masking.board import mapped
from ananke_server.masking.mask_process import MaskProcess, send_all
from ananke_server.masking.messages import packed
from ananke_server.masking.tokenizer import TokenizerSource

_PR_SET_PDEATHSIG = 1


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    board, lexer_states, *processes = sys.argv[1:]
    content = json.load(sys.stdin.buffer)
    tokenizer = TokenizerSource(content["text"], tuple(content["ends"])).load()
    del content
    # What lives now lives on in all processes: collecting it would copy its pages.
    gc.freeze()
    channels = [tuple(map(int, process.split(":"))) for process in processes]
    children = [_fork(int(board), number, channels, tokenizer, int(lexer_states)) for number in range(len(channels))]
    for _, connection in channels:
        os.close(connection)
    ended, status = os.wait()
    for child in children:
        if child != ended:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    sys.exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _fork(board: int, number: int, channels: list[tuple[int, ...]], tokenizer: LLTokenizer, lexer_states: int) -> int:
    if pid := os.fork():
        return pid
    try:
        # Without its foreman nobody would know that it is there.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for other, (bell, connection) in enumerate(channels):
            if other != number:
                os.close(bell)
                os.close(connection)
        bell, descriptor = channels[number]
        orders = socket.socket(fileno=descriptor)
        process = MaskProcess(mapped(board), number, bell, orders, tokenizer, lexer_states=lexer_states)
        send_all(orders, packed(["up", 0]))
        process.run()
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


if __name__ == "__main__":
    main()
