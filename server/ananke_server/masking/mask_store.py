"""The mask store: masks that were slow to compute, kept for all requests that come into the same state, in any mask process."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import time
import weakref
from typing import Final

WORTH_NS: Final = 50_000
"""What takes less is computed again: it is hardly slower, and would take the room of others."""
LEAST_TOKENS: Final = 256
"""Where only one text can follow, llguidance's mask depends on how the output before was made of tokens: of such masks, which admit
a few tokens at most, none is kept."""
KEY_BYTES: Final = 16
WAYS: Final = 16
"""Places that a key may be at, the least recently used of which is taken."""
SETS: Final = 512
_WORD: Final = 8


class MaskStore:
    """Masks by the key of their state, in memory that is shared with processes forked later; at most 8,192, 160 MB for a vocabulary
    of 150,000. For one thread of each process.

    Nobody waits. A writer locks its set of places, and where another process has locked it the mask is dropped. A reader looks at its
    place's version before and after: odd while it is written, and another one since. This asks no more of the processor than that it
    shows one process's writes to another in their order, as the board does.
    """

    def __init__(self, words: int, sets: int = SETS) -> None:
        """Args:
        words: of a mask, in int32.
        sets: of places; there are ``WAYS`` in each.
        """
        self._size = 4 * words
        self._sets = sets
        places = sets * WAYS
        self._descriptor = os.memfd_create("ananke-masks")
        weakref.finalize(self, os.close, self._descriptor)
        heads = places * (KEY_BYTES + 2 * _WORD)
        os.ftruncate(self._descriptor, heads + places * self._size)
        # Pages that no mask has come to take no memory.
        self._memory = mmap.mmap(self._descriptor, heads + places * self._size)
        view = memoryview(self._memory)
        self._keys = view[: places * KEY_BYTES]
        self._versions = view[places * KEY_BYTES : places * (KEY_BYTES + _WORD)].cast("Q")
        self._used_ns = view[places * (KEY_BYTES + _WORD) : heads].cast("Q")
        self._masks = ctypes.addressof(ctypes.c_char.from_buffer(self._memory)) + heads
        self.found = 0
        """Masks that were not computed, in this process."""

    def write(self, key: bytes, address: int) -> bool:
        """Write the mask of a state to an address, if it is here. Where it is not, anything may have been written there."""
        place = self._place(key)
        if place is None:
            return False
        version = self._versions[place]
        if version % 2 or not self._holds(place, key):
            return False
        ctypes.memmove(address, self._masks + place * self._size, self._size)
        if self._versions[place] != version:
            return False
        self._used_ns[place] = time.monotonic_ns()
        self.found += 1
        return True

    def keep(self, key: bytes, address: int) -> None:
        """Keep the mask at an address, if it is one to be kept."""
        if int.from_bytes(ctypes.string_at(address, self._size), "little").bit_count() < LEAST_TOKENS:
            return
        number = self._set(key)
        try:
            # One's own death ends a lock of this kind, and what was half written has an odd version.
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return
        try:
            if self._place(key) is None:
                places = range(number * WAYS, (number + 1) * WAYS)
                self._put(min(places, key=self._used_ns.__getitem__), key, address)
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, number)

    def _put(self, place: int, key: bytes, address: int) -> None:
        self._versions[place] |= 1
        ctypes.memmove(self._masks + place * self._size, address, self._size)
        self._keys[place * KEY_BYTES : (place + 1) * KEY_BYTES] = key
        self._used_ns[place] = time.monotonic_ns()
        self._versions[place] += 1

    def _place(self, key: bytes) -> int | None:
        """Where a key's mask is, or was a moment ago."""
        first = self._set(key) * WAYS
        offset = bytes(self._keys[first * KEY_BYTES : (first + WAYS) * KEY_BYTES]).find(key)
        return None if offset < 0 or offset % KEY_BYTES else first + offset // KEY_BYTES

    def _holds(self, place: int, key: bytes) -> bool:
        return self._keys[place * KEY_BYTES : (place + 1) * KEY_BYTES] == key

    def _set(self, key: bytes) -> int:
        return int.from_bytes(key[:4], "little") % self._sets
