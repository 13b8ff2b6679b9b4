"""The mask store: masks that were slow to compute, kept for all requests of a mask process that come into the same state."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

WORTH_NS: Final = 150_000
"""What takes less is computed again: finding a mask here costs a few microseconds, and room."""
LEAST_TOKENS: Final = 256
"""Where only one text can follow, llguidance's mask depends on how the output before was made of tokens: of such masks, which admit
a few tokens at most, none is kept."""
MOST_MASKS: Final = 2048


class MaskStore:
    """Masks by the key of their state, the least recently used first out. At most some 40 MB for a vocabulary of 150,000."""

    def __init__(self) -> None:
        self._masks: OrderedDict[Hashable, bytes] = OrderedDict()
        self.found = 0
        """Masks that were not computed."""

    def write(self, key: Hashable, address: int) -> bool:
        """Write the mask of a state to an address, if it is here."""
        mask = self._masks.get(key)
        if mask is None:
            return False
        ctypes.memmove(address, mask, len(mask))
        self._masks.move_to_end(key)
        self.found += 1
        return True

    def keep(self, key: Hashable, address: int, size: int) -> None:
        """Keep the mask of so many bytes at an address, if it is one to be kept."""
        mask = ctypes.string_at(address, size)
        if int.from_bytes(mask, "little").bit_count() < LEAST_TOKENS:
            return
        self._masks[key] = mask
        if len(self._masks) > MOST_MASKS:
            self._masks.popitem(last=False)
