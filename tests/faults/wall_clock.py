"""The wall clock of a server's processes, which a test lets jump: a preloaded shim, compiled here, adds a number that they share."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHIM = Path(__file__).with_name("clock_shim.c")
COMPILER = shutil.which("cc") or shutil.which("gcc")


class WallClock:
    """The clock of the processes that are started with ``environment``."""

    def __init__(self, folder: Path) -> None:
        """Compile the shim into a folder, whose path must have no blank.

        Raises:
            subprocess.CalledProcessError: it does not compile.
        """
        assert COMPILER is not None
        library, self._shift = folder / "clock_shim.so", folder / "shift"
        command = [COMPILER, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, SHIM, "-ldl", "-pthread"]
        subprocess.run(command, check=True, capture_output=True)
        self._shift.write_bytes(struct.pack("q", 0))
        self.environment = {"LD_PRELOAD": str(library), "FAULT_CLOCK": str(self._shift)}

    def jump(self, seconds: int) -> None:
        """Set it to so many seconds from the true time, at once and in every process."""
        with self._shift.open("r+b") as file:
            file.write(struct.pack("q", seconds))

    @contextmanager
    def jumped(self, seconds: int) -> Iterator[None]:
        """It jumps now, and back at the end."""
        self.jump(seconds)
        try:
            yield
        finally:
            self.jump(0)
