"""The GPU's gate: its stream waits for the masks, and the engine's thread does not.

Before the forward pass a kernel writes the newest tokens into the board's memory, and the stream that they have arrived. The
mask processes see it and fill the masks while the forward pass runs. On a stream of its own the GPU waits until they are
done, and copies the masks; the main stream goes on with the kernel that applies them. All of this is queued ahead, in some
0.1 ms of the engine's thread a step, whatever the batch.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from ananke_server.masking.bitmask_kernel import apply_bitmask, send_newest, stamp
from ananke_server.masking.board import PARITIES, Board
from ananke_server.masking.placements import Asked

_GREATER_OR_EQUAL = 0
_PORTABLE = 1
_WARM_UP_STEP = 0


class CudaGate:
    """The board's memory as the GPU sees it. Everything is queued on the current stream, and on one that follows it."""

    def __init__(self, board: Board, device: torch.device) -> None:
        """Pin the board, and compile the kernels, which takes a second or two.

        Raises:
            RuntimeError: the driver does not pin the memory.
        """
        self._board = board
        with torch.cuda.device(device):
            torch.cuda.current_stream().synchronize()
            if error := int(torch.cuda.cudart().cudaHostRegister(board.address, board.bytes, _PORTABLE)):
                raise RuntimeError(f"the board's memory cannot be pinned: CUDA error {error}")
            self._driver = _Driver()
            self._side = torch.cuda.Stream()
            self._copied = torch.cuda.Event()
        self._host = [torch.from_numpy(masks) for masks in board.masks]
        self._masks = torch.zeros(board.masks.shape[1:], dtype=torch.int32, device=device)
        self._lengths, self._tokens = HostPointer(board.lengths.ctypes.data), HostPointer(board.tokens.ctypes.data)
        self._stamps = [
            [HostPointer(board.stamps[parity, moment : moment + 1].ctypes.data, torch.int64) for moment in range(2)]
            for parity in range(PARITIES)
        ]
        self._arrived = board.arrived.ctypes.data
        self._done = [board.done[process : process + 1].ctypes.data for process in range(board.size.processes)]
        self._warm_up(device)

    def send(self, step: int, total_len: torch.Tensor, all_token_ids: torch.Tensor) -> None:
        send_newest(total_len, all_token_ids, self._lengths, self._tokens)
        self._driver.write(torch.cuda.current_stream().cuda_stream, self._arrived, step)

    def apply(self, step: int, asked: Asked, logits: torch.Tensor) -> None:
        parity = step % PARITIES
        logits_there, masks_there = self._stamps[parity]
        stamp(logits_there)
        masks = self._masks[: asked.masks]
        with torch.cuda.stream(self._side):
            for owner in asked.owners:
                self._driver.wait(self._side.cuda_stream, self._done[owner], step)
            masks.copy_(self._host[parity][: asked.masks], non_blocking=True)
            self._copied.record(self._side)
        torch.cuda.current_stream().wait_event(self._copied)
        apply_bitmask(logits, masks, self._board.size.words, masks_there)

    def _warm_up(self, device: torch.device) -> None:
        for dtype in (torch.float32,):
            logits = torch.zeros((1, 32 * self._board.size.words), dtype=dtype, device=device)
            lengths = torch.zeros(self._board.size.rows, dtype=torch.int32, device=device)
            with torch.cuda.device(device):
                self.send(_WARM_UP_STEP, lengths, lengths[:, None])
                self.apply(_WARM_UP_STEP, Asked(1, [0]), logits)
        torch.cuda.synchronize(device)
        self._board.stamps[:] = 0


@dataclass(frozen=True, slots=True)
class HostPointer:
    """Pinned host memory as a kernel's argument."""

    address: int
    dtype: torch.dtype = torch.int32

    def data_ptr(self) -> int:
        return self.address


class _Driver:
    """The two calls of CUDA's driver by which a stream writes a number into memory, or waits for one there."""

    def __init__(self) -> None:
        library = ctypes.CDLL("libcuda.so.1")
        self._write, self._wait = library.cuStreamWriteValue64_v2, library.cuStreamWaitValue64_v2
        for function in (self._write, self._wait):
            function.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint]

    def write(self, stream: int, address: int, value: int) -> None:
        """Write, after all that the stream has queued, and once its writes are seen everywhere."""
        self._check(self._write(stream, address, value, 0))

    def wait(self, stream: int, address: int, value: int) -> None:
        """Hold the stream until the number there is as large."""
        self._check(self._wait(stream, address, value, _GREATER_OR_EQUAL))

    @staticmethod
    def _check(error: int) -> None:
        if error:
            raise RuntimeError(f"CUDA error {error} of a stream's memory operation")
