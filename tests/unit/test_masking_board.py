"""The board: its layout, and processes that see each other's writes and hear each other's bells."""

from __future__ import annotations

import gc
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ananke_server.masking.board import PARTS, ROW, Bell, Board, BoardFile, Size, open_board

SIZE = Size(rows=5, words=3, processes=2)
ARRAYS = ("arrived", "done", "announced", "counts", "rows", "lengths", "tokens", "stamps", "masks")


@pytest.fixture
def file() -> Iterator[BoardFile]:
    file = BoardFile.create(SIZE)
    yield file
    file.close()


def arrays(board: Board) -> dict[str, np.ndarray]:
    return {name: getattr(board, name) for name in ARRAYS}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 5000), st.integers(1, 40), st.integers(2, 9))
def test_arrays_lie_apart_within_the_memory_and_are_aligned(rows: int, words: int, processes: int, parts: int) -> None:
    file = BoardFile.create(Size(rows, words, processes, parts))
    try:
        board = file.board()
        assert board.size == (rows, words, processes, parts)
        spans = sorted((array.ctypes.data, array.ctypes.data + array.nbytes, name) for name, array in arrays(board).items())
        # The size, which any process finds at the beginning, comes first.
        assert board.address + 64 <= spans[0][0]
        for (_, end, name), (start, _, next_name) in pairwise(spans):
            assert end <= start, (name, next_name)
        assert spans[-1][1] <= board.address + board.bytes
        assert all(array.ctypes.data % 64 == 0 for array in arrays(board).values())
        assert all(array.flags.writeable and array.flags.c_contiguous for array in arrays(board).values())
        # The GPU waits for numbers that no other process writes beside.
        assert board.masks.strides[1] % 16 == 0
        assert board.size.stride > words
        assert board.masks.ctypes.data % 4096 == 0
        assert board.done.strides == (64, 8)
    finally:
        file.close()


def test_the_shapes_are_those_of_the_size(file: BoardFile) -> None:
    board = file.board()
    shapes = {name: (array.shape, array.dtype) for name, array in arrays(board).items()}
    assert shapes == {
        "arrived": ((1,), np.uint64),
        "done": ((2, 8), np.uint64),
        "announced": ((PARTS,), np.uint64),
        "counts": ((PARTS,), np.uint64),
        "rows": ((PARTS, 5), ROW),
        "lengths": ((5,), np.int32),
        "tokens": ((5,), np.int32),
        "stamps": ((PARTS + 1, 2), np.int64),
        "masks": ((PARTS, 5, 4), np.int32),
    }
    assert not any(np.frombuffer(array.tobytes(), dtype=np.uint8).any() for array in arrays(board).values()), "all zeros at first"


def test_each_array_keeps_what_is_written_whatever_is_written_to_the_others(file: BoardFile) -> None:
    board, other = file.board(), file.board()
    contents = {name: np.random.default_rng(len(name)).bytes(array.nbytes) for name, array in arrays(board).items()}
    for name, array in arrays(board).items():
        array[...] = np.frombuffer(contents[name], dtype=array.dtype).reshape(array.shape)
    assert {name: array.tobytes() for name, array in arrays(other).items()} == contents
    assert other.size == SIZE


OTHER = """
import os, sys, time
from ananke_server.masking.board import open_board
board, bell = open_board(os.environ["ANANKE_BOARD"])
board.rows[1, 4] = (2**40, 7, 3, 2, 1)
board.masks[0, 2] = [1, -2, 3, 4]
board.done[1, 0] = 9
bell.ring()
deadline = time.monotonic() + 30
while board.arrived[0] != 5 and time.monotonic() < deadline:
    time.sleep(0.001)
board.done[1, 0] = 10 if board.arrived[0] == 5 else 11
"""


def test_another_process_opens_the_board_and_sees_it_change(file: BoardFile) -> None:
    board = file.board()
    with subprocess.Popen([sys.executable, "-c", OTHER], env=os.environ | {"ANANKE_BOARD": file.address}) as process:
        assert select.select([file.bell[0]], [], [], 30)[0] == [file.bell[0]]
        assert board.rows[1, 4].tolist() == (2**40, 7, 3, 2, 1)
        assert board.masks[0, 2].tolist() == [1, -2, 3, 4]
        assert board.done[:, 0].tolist() == [0, 9]
        board.arrived[0] = 5
        assert process.wait(30) == 0
    assert board.done[1, 0] == 10


MAKER = """
import sys
from ananke_server.masking.board import BoardFile, Size
file = BoardFile.create(Size(4, 3, 2, 5))
file.board().tokens[:] = 7
print(file.address, flush=True)
sys.stdin.read()
"""


def test_a_board_lives_as_long_as_its_process_and_longer_where_it_is_open() -> None:
    with subprocess.Popen([sys.executable, "-c", MAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        board, bell = open_board(address)
        assert (board.size, board.tokens.tolist()) == ((4, 3, 2, 5), [7] * 4)
        bell.ring()
        process.kill()
        process.wait()
        with pytest.raises(OSError, match="No such"):
            open_board(address)
    board.tokens[0] = 8
    assert board.tokens.tolist() == [8, 7, 7, 7]


def test_a_bell_wakes_and_never_blocks(file: BoardFile) -> None:
    listen, ring = file.bell
    bell = Bell(ring)
    assert select.select([listen], [], [], 0)[0] == []
    bell.ring()
    assert select.select([listen], [], [], 0)[0] == [listen]
    # A pipe takes 64 KiB; nobody listens.
    for _ in range(70_000):
        bell.ring()
    os.set_blocking(listen, False)
    assert len(os.read(listen, 1 << 20)) > 1000
    bell.ring()
    assert os.read(listen, 10)


def test_open_gates_let_everybody_go_with_nothing_but_the_ends_allowed(file: BoardFile) -> None:
    board, other = file.board(), file.board()
    board.masks[:] = 0x5A5A5A5A
    board.done[:, 0] = 17
    ends = np.array([8, 1, -16], dtype=np.int32)
    board.open_gates(ends)
    assert (other.done[:, 0] >= 1 << 60).all()
    assert (other.masks[:, :, :3] == ends).all()
    assert (other.masks[:, :, 3] == 0x5A5A5A5A).all(), "which logits rows they are for is the engine's"


def test_a_closed_file_leaves_the_board_in_place_and_with_it_goes_its_last_descriptor() -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    file = BoardFile.create(SIZE)
    board = file.board()
    file.close()
    board.done[:] = 3
    assert (board.done == 3).all()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    del board
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
