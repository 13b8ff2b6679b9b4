"""The GPU's gate: its stream waits for the masks, and the engine's thread does not.

Before the forward pass a kernel writes the newest tokens into the board's memory, and the stream that they have arrived. The
mask processes fill the masks while the forward pass runs. After it the stream waits until they are done, and a kernel reads
the masks where they are, in the host's memory, and applies them. All of this is queued ahead. The engine's thread is what a
step can least spare, so little of it is spent: five calls of the driver a step, whatever the batch.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import torch

from ananke_server.masking import bitmask_kernel as kernels
from ananke_server.masking.board import Board
from ananke_server.masking.placements import Asked

_PORTABLE = 1
_OPERATION = np.dtype(
    {"names": ["kind", "address", "value", "flags"], "formats": ["u4", "u8", "u8", "u4"], "offsets": [0, 8, 16, 24], "itemsize": 48}
)
"""CUDA's ``CUstreamBatchMemOpParams``, as far as it is needed."""
_WAIT_VALUE_64 = 4
_GREATER_OR_EQUAL = 0


class CudaGate:
    """The board's memory as the GPU sees it. Everything is queued on the current stream."""

    def __init__(self, board: Board, total_len: torch.Tensor, all_token_ids: torch.Tensor, vocab: int, *, stamps: bool = True) -> None:
        """Pin the board, and compile the kernels for tensors like these, which takes a second or two.

        Args:
            total_len, all_token_ids: as ``send`` will get them.
            vocab: the logits' width.
            stamps: whether this rank is the one whose waits are counted.

        Raises:
            RuntimeError: the driver does not pin the memory.
        """
        self._board = board
        with torch.cuda.device(total_len.device):
            torch.cuda.current_stream().synchronize()
            if error := int(torch.cuda.cudart().cudaHostRegister(board.address, board.bytes, _PORTABLE)):
                raise RuntimeError(f"the board's memory cannot be pinned: CUDA error {error}")
        self._driver = _Driver()
        self._newest = HostPointer(board.lengths.ctypes.data), HostPointer(board.tokens.ctypes.data)
        self._arrived = board.arrived.ctypes.data
        self._masks = [HostPointer(masks.ctypes.data) for masks in board.masks]
        pairs = board.stamps[..., None] if stamps else [board.stamps[-1, :, None]] * board.size.parts
        self._stamps = [[HostPointer(moment.ctypes.data, torch.int64) for moment in pair] for pair in pairs]
        self._waits = np.zeros(board.size.processes, dtype=_OPERATION)
        self._waits["kind"], self._waits["flags"] = _WAIT_VALUE_64, _GREATER_OR_EQUAL
        self._waits["address"] = board.done.ctypes.data + board.done.strides[0] * np.arange(board.size.processes)
        self._send = kernels.SendNewest()
        self._stamp = kernels.Stamp()
        self._apply = kernels.ApplyBitmask()
        self.send(0, total_len, all_token_ids)
        self.apply(0, Asked(1, [0]), torch.zeros((1, vocab), device=total_len.device))
        torch.cuda.synchronize(total_len.device)
        board.stamps[:] = 0

    def send(self, step: int, total_len: torch.Tensor, all_token_ids: torch.Tensor) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        self._send(stream, total_len, all_token_ids, *self._newest)
        self._driver.write(stream, self._arrived, step)

    def apply(self, step: int, asked: Asked, logits: torch.Tensor) -> None:
        part = self._board.part(step)
        logits_there, masks_there = self._stamps[part]
        stream = torch.cuda.current_stream().cuda_stream
        waits = self._waits[asked.owners]
        waits["value"] = step
        self._stamp(stream, logits_there)
        self._driver.batch(stream, waits)
        self._apply(stream, logits, self._masks[part], asked.masks, self._board.size.stride, self._board.size.words, masks_there)


@dataclass(frozen=True, slots=True)
class HostPointer:
    """Pinned host memory as a kernel's argument."""

    address: int
    dtype: torch.dtype = torch.int32

    def data_ptr(self) -> int:
        return self.address


class _Driver:
    """The calls of CUDA's driver by which a stream writes a number into memory, or waits for numbers there."""

    def __init__(self) -> None:
        library = ctypes.CDLL("libcuda.so.1")
        self._write, self._batch = library.cuStreamWriteValue64_v2, library.cuStreamBatchMemOp_v2
        self._write.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint]
        self._batch.argtypes = [ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_uint]

    def write(self, stream: int, address: int, value: int) -> None:
        """Write, after all that the stream has queued, and once its writes are seen everywhere."""
        self._check(self._write(stream, address, value, 0))

    def batch(self, stream: int, operations: np.ndarray[tuple[int], np.dtype[np.void]]) -> None:
        """Carry out operations, ``[operations]`` of ``_OPERATION``, one after the other."""
        self._check(self._batch(stream, len(operations), operations.ctypes.data, 0))

    @staticmethod
    def _check(error: int) -> None:
        if error:
            raise RuntimeError(f"CUDA error {error} of a stream's memory operation")
