"""The board: the memory that the engine's workers, which run the model, share with the mask processes, which fill its masks.

For each step the engine announces the rows that need a mask, and rings the foreman; what was sampled last arrives from
wherever sampling runs; then the foreman rings the mask processes, and each fills the masks of its own rows and says that it
is done. Whoever waits, waits for a number in this memory: the foreman for ``arrived``, a GPU's stream or the engine for
``done``. A step's number is never used twice. Its rows and masks lie in a part of the memory that the next step leaves alone, and
the one after that too: the engine may announce a step while the GPU still works on the one before, and of a tensor-parallel
group a GPU may be one step behind the one whose tokens the engine has seen. With pipeline stages more steps are under way, and
there is a part for each of them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ADDRESS_VARIABLE = "ANANKE_BOARD"
"""The environment variable that tells the engine's workers where the board is."""

ROW = np.dtype([("ticket", np.uint64), ("placement", np.uint32), ("slot", np.uint32), ("prompt", np.uint32), ("owner", np.uint32)])
"""A row that needs a mask: its request's ticket, the request's stay in the batch, its slot, its prompt's length and its mask process."""

PARTS = 3
"""Parts that are enough for two batches under way, and a GPU that is a step behind."""
_LINE = 64
_PAGE = 4096
MOST_PROCESSES = 62
"""Mask processes that a board may have: the GPU is told by the bits of a positive int64 for which of them it waits."""
_DEAD_STEP = 1 << 62


class Size(NamedTuple):
    """What a board is made for: rows (and slots) of a batch, words of a mask, mask processes, steps that may be under way."""

    rows: int
    words: int
    processes: int
    parts: int = PARTS

    @property
    def stride(self) -> int:
        """Words from one mask to the next: a mask, the logits row it is for, and padding to 16 bytes."""
        return (self.words + 1 + 3) // 4 * 4


class Board:
    """The shared memory, as arrays.

    Attributes:
        arrived: ``[1]`` uint64, the last step whose newest tokens are in ``lengths`` and ``tokens``.
        done: ``[processes, 8]`` uint64, in the first column the last step of which a process has filled all its rows.
        announced: ``[parts]`` uint64, the last step that needs masks.
        counts: ``[parts]`` uint64, how many rows a step has.
        rows: ``[parts, rows]`` of ``ROW``.
        lengths, tokens: ``[rows]`` int32, by slot: tokens of prompt and output, and the last of them.
        stamps: ``[parts + 1, 2]`` int64 ns of one clock: when a step's logits were there, and when its masks were. The last pair is
            for ranks that nobody asks.
        masks: ``[parts, rows, stride]`` int32: for each row the mask, a bit a token, the lowest first, and then the logits row.
    """

    def __init__(self, memory: mmap.mmap, size: Size) -> None:
        self.size = size
        self._memory = memory
        self.bytes = len(memory)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        layout = _Layout(memory)
        layout.skip(_LINE)
        self.arrived = layout.take((1,), np.uint64)
        self.done = layout.take((size.processes, _LINE // 8), np.uint64)
        self.announced = layout.take((size.parts,), np.uint64)
        self.counts = layout.take((size.parts,), np.uint64)
        self.rows = layout.take((size.parts, size.rows), ROW)
        self.lengths = layout.take((size.rows,), np.int32)
        self.tokens = layout.take((size.rows,), np.int32)
        self.stamps = layout.take((size.parts + 1, 2), np.int64)
        layout.skip(-layout.offset % _PAGE)
        self.masks = layout.take((size.parts, size.rows, size.stride), np.int32)

    def part(self, step: int) -> int:
        """The part of the memory that a step has."""
        return step % self.size.parts

    def asked(self, step: int) -> NDArray[Any]:
        """The rows of a step that has been announced, ``[counts[part(step)]]`` of ``ROW``."""
        part = self.part(step)
        return self.rows[part, : int(self.counts[part])]

    def open_gates(self, ends: NDArray[np.int32]) -> None:
        """Let everybody go who waits for a mask: the mask processes have ended, and from now on each mask is ``ends``, ``[words]``.

        So the engine ends the constrained requests that it has, and serves the others; the model process says why.
        """
        self.masks[:, :, : self.size.words] = ends
        self.done[:, 0] = _DEAD_STEP


@dataclass
class _Layout:
    memory: mmap.mmap
    offset: int = 0

    def skip(self, size: int) -> None:
        self.offset += size

    def take(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """The next array, at the beginning of a cache line."""
        count = int(np.prod(shape))
        array = np.frombuffer(self.memory, dtype, count, self.offset).reshape(shape)
        self.offset += -(-array.nbytes // _LINE) * _LINE
        return array


@dataclass
class BoardFile:
    """A board's memory and the foreman's bell, as files without names that other processes of this user can open.

    ``address`` tells an engine's worker where they are, as long as this process lives.
    """

    size: Size
    memory: int
    bell: tuple[int, int]
    """A pipe: where the foreman listens, and where it is rung."""

    @classmethod
    def create(cls, size: Size) -> BoardFile:
        """A new board, all zeros. The caller closes it."""
        memory = os.memfd_create("ananke-board")
        os.ftruncate(memory, _bytes(size))
        os.pwrite(memory, np.array(size, dtype=np.uint64).tobytes(), 0)
        return cls(size, memory, os.pipe())

    @property
    def address(self) -> str:
        return f"{os.getpid()}:{self.memory}:{self.bell[1]}"

    def board(self) -> Board:
        """The board, mapped into this process."""
        return mapped(self.memory)

    def close(self) -> None:
        """Close the files; what is mapped stays."""
        for descriptor in (self.memory, *self.bell):
            os.close(descriptor)


class Bell:
    """Wakes whoever sleeps at the other end of a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)

    def ring(self) -> None:
        """Costs some 10 us, most of them for waking a sleeper."""
        # Where the pipe is full, so many rings lie unheard that it will wake.
        with suppress(BlockingIOError):
            os.write(self._descriptor, b"!")


def open_board(address: str) -> tuple[Board, Bell]:
    """The board of an address, and the bell of its foreman.

    Raises:
        OSError: the process that made it has ended.
    """
    pid, memory, bell = address.split(":")
    descriptor = os.open(f"/proc/{pid}/fd/{memory}", os.O_RDWR)
    try:
        board = mapped(descriptor)
    finally:
        os.close(descriptor)
    return board, Bell(os.open(f"/proc/{pid}/fd/{bell}", os.O_WRONLY))


def mapped(descriptor: int) -> Board:
    """The board of an open file."""
    memory = mmap.mmap(descriptor, 0)
    return Board(memory, Size(*np.frombuffer(memory, dtype=np.uint64, count=len(Size._fields)).tolist()))


def _bytes(size: Size) -> int:
    rows = size.parts * (size.rows * (ROW.itemsize + 4 * size.stride) + _LINE) + 8 * size.rows
    return rows + size.processes * _LINE + 16 * _LINE + 2 * _PAGE
