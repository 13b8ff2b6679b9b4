"""Processor cores, some of which nothing but the engine's threads may use.

With a hundred requests in a step it is vLLM's thread, not the GPU, that a step takes its time from. It sleeps several times in each; where
others have its core meanwhile, it finds the caches cold or goes on elsewhere, and the step takes a tenth longer. So whatever the server
starts keeps off a few cores, and the engine's threads may use these too. They are not tied to them: on a machine that others share they
can leave. Standard library alone.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEPT_VARIABLE = "ANANKE_CORES_KEPT"
"""The environment variable that tells the server's processes which cores are kept, by number and with commas."""

LEAST_FOR_A_WORKER = 8
"""Cores that there must be for each of the engine's workers, for one to be kept by default."""
_DEVICES = Path("/dev")
_TOPOLOGY = Path("/sys/devices/system/cpu")


class TooFewCoresError(ValueError):
    """More cores are to be kept than can be spared."""


def available() -> set[int]:
    """The cores that the server may use, those that are kept included."""
    return os.sched_getaffinity(0) | kept()


def kept() -> set[int]:
    """The cores that are kept for the engine's threads in this server."""
    return {int(core) for core in os.environ.get(KEPT_VARIABLE, "").split(",") if core}


def to_keep(asked: int | None, workers: int) -> set[int]:
    """The cores for a new server to keep, each with its hyperthreads; any of those that it may use, as another server there chooses too.

    Args:
        asked: how many; None is one for each of the engine's workers where the machine has GPUs, and enough cores.

    Raises:
        TooFewCoresError: none would be left for anything else.
    """
    cores = _physical(os.sched_getaffinity(0))
    if asked is None:
        asked = workers if _has_gpu() and len(cores) >= LEAST_FOR_A_WORKER * workers else 0
    if asked >= max(1, len(cores)):
        raise TooFewCoresError(f"engine_cores is {asked}, and there are {len(cores)} cores: set it to {len(cores) - 1} at most, or to 0")
    return set().union(*random.sample(cores, asked))


@contextmanager
def kept_off(cores: set[int]) -> Iterator[None]:
    """A process started within the block keeps off these cores, with all that it starts in turn."""
    before = os.sched_getaffinity(0)
    if not cores:
        yield
        return
    os.sched_setaffinity(0, before - cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def use_kept() -> None:
    """Let the calling thread, and what it starts from now on, use the cores that are kept beside those it uses already."""
    if cores := kept():
        os.sched_setaffinity(0, os.sched_getaffinity(0) | cores)


def _physical(allowed: set[int]) -> list[set[int]]:
    """The allowed cores, hyperthreads of one together, ascending."""
    together: dict[frozenset[int], None] = {}
    for core in sorted(allowed):
        together[frozenset(_siblings(core) & allowed | {core})] = None
    return [set(siblings) for siblings in together]


def _siblings(core: int) -> set[int]:
    """The hyperthreads of a core's, as the kernel lists them: ``0,16`` or ``0-1``."""
    try:
        text = (_TOPOLOGY / f"cpu{core}" / "topology" / "thread_siblings_list").read_text()
    except OSError:
        return {core}
    bounds = [part.partition("-")[::2] for part in text.strip().split(",")]
    return {sibling for first, last in bounds for sibling in range(int(first), int(last or first) + 1)}


def _has_gpu() -> bool:
    return any(_DEVICES.glob("nvidia[0-9]*"))
