"""The GPU's gate: its stream waits for the masks, and the engine's thread does not.

Before the forward pass a kernel writes the newest tokens into the board's memory, and that they have arrived. The
mask processes fill the masks while the forward pass runs. After it a kernel waits until they are done, and another reads
the masks where they are, in the host's memory, and applies them. All of this is queued ahead. The engine's thread is what a
step can least spare, so little of it is spent: three launches a step, whatever the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from triton.runtime import driver

from ananke_server.masking import bitmask_kernel as kernels
from ananke_server.masking.board import MOST_PROCESSES, Board
from ananke_server.masking.placements import Asked

_PORTABLE = 1


class CudaGate:
    """The board's memory as the GPU sees it. Everything is queued on the current stream."""

    def __init__(self, board: Board, total_len: torch.Tensor, all_token_ids: torch.Tensor, vocab: int, *, stamps: bool = True) -> None:
        """Pin the board, and compile the kernels for tensors like these, which takes a second or two.

        Args:
            total_len, all_token_ids: as ``send`` will get them.
            vocab: the logits' width.
            stamps: whether this rank is the one whose waits are counted.

        Raises:
            ValueError: the board has more mask processes than a kernel can wait for.
            RuntimeError: the driver does not pin the memory.
        """
        if board.size.processes > MOST_PROCESSES:
            raise ValueError(f"{board.size.processes} mask processes are more than {MOST_PROCESSES}")
        self._board = board
        with torch.cuda.device(total_len.device):
            torch.cuda.current_stream().synchronize()
            if error := int(torch.cuda.cudart().cudaHostRegister(board.address, board.bytes, _PORTABLE)):
                raise RuntimeError(f"the board's memory cannot be pinned: CUDA error {error}")
        self._newest = HostPointer(board.lengths.ctypes.data), HostPointer(board.tokens.ctypes.data)
        self._arrived, self._done = (HostPointer(numbers.ctypes.data, torch.int64) for numbers in (board.arrived, board.done))
        self._masks = [HostPointer(masks.ctypes.data) for masks in board.masks]
        pairs = board.stamps[..., None] if stamps else [board.stamps[-1, :, None]] * board.size.parts
        self._stamps = [[HostPointer(moment.ctypes.data, torch.int64) for moment in pair] for pair in pairs]
        self._device = total_len.device.index
        # Torch's object for a stream takes as long to make as a launch does.
        self._stream_of = driver.active.get_current_stream
        self._send = kernels.SendNewest()
        self._await = kernels.Await()
        self._apply = kernels.ApplyBitmask()
        self.send(0, total_len, all_token_ids)
        self.apply(0, Asked(1, [0], 1), torch.zeros((1, vocab), device=total_len.device))
        torch.cuda.synchronize(total_len.device)
        board.stamps[:] = 0

    def send(self, step: int, total_len: torch.Tensor, all_token_ids: torch.Tensor) -> None:
        self._send(self._stream_of(self._device), total_len, all_token_ids, *self._newest, self._arrived, step)

    def apply(self, step: int, asked: Asked, logits: torch.Tensor) -> None:
        part = self._board.part(step)
        stream = self._stream_of(self._device)
        self._await(stream, self._done, asked.awaited, step, *self._stamps[part])
        self._apply(stream, logits, self._masks[part], asked.masks, self._board.size.stride, self._board.size.words)


@dataclass(frozen=True, slots=True)
class HostPointer:
    """Pinned host memory as a kernel's argument."""

    address: int
    dtype: torch.dtype = torch.int32

    def data_ptr(self) -> int:
        return self.address
