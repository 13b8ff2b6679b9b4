"""Processor cores, some of which nothing else of the server uses than the engine's threads.

With a hundred requests in a step it is the thread of vLLM's worker, not the GPU, that a step takes its time from. It sleeps several
times in each; where others have its core meanwhile, it finds the caches cold or goes on elsewhere, and the step takes longer. So whatever
the server starts keeps off a few cores, and the workers' threads may use these too. They are not tied to them: on a machine that others
share they can leave. All of it is a gain and no need: where the kernel refuses, a line says so and the server goes without. Standard
library alone.
"""

import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ananke_server.installed import on_cpu

logger = logging.getLogger(__name__)

KEPT_VARIABLE = "ANANKE_CORES_KEPT"
"""The environment variable that tells the server's processes which cores are kept, by number and with commas."""

LEAST_FOR_A_WORKER = 8
"""Cores that there must be for each of the engine's workers, for one to be kept by default."""
_DEVICES = Path("/dev")
_CORES = Path("/sys/devices/system/cpu")
_GROUPS = Path("/sys/fs/cgroup")
_CPUSETS = ("cpuset.cpus.effective", "cpuset/cpuset.effective_cpus")


class TooFewCoresError(ValueError):
    """More cores are to be kept than can be spared."""


def available() -> set[int]:
    """The cores that the server may use, those that are kept included."""
    return os.sched_getaffinity(0) | kept()


def kept() -> set[int]:
    """The cores that are kept for the engine's threads in this server."""
    numbers = {int(number) for number in os.environ.get(KEPT_VARIABLE, "").split(",") if number.isdecimal()}
    return numbers & _possible()


def to_keep(asked: int | None, workers: int) -> set[int]:
    """The cores for a new server to keep, each with its hyperthreads; any of those that it may use, as another server there chooses too.

    Args:
        asked: how many; None is one for each of the engine's workers where they are on GPUs, and there are enough.

    Raises:
        TooFewCoresError: none would be left for anything else.
    """
    cores = physical(os.sched_getaffinity(0))
    if asked is None:
        asked = workers if _has_gpu() and len(cores) >= LEAST_FOR_A_WORKER * workers else 0
    if asked and asked >= len(cores):
        raise TooFewCoresError(f"engine_cores is {asked}, and of {len(cores)} cores one has to be left: set it to {len(cores) - 1} at most")
    return set().union(*random.sample(cores, asked))


def physical(cores: set[int]) -> list[set[int]]:
    """These cores, hyperthreads of one together, ascending."""
    together: dict[frozenset[int], None] = {}
    for core in sorted(cores):
        together[frozenset(_listed(_CORES / f"cpu{core}" / "topology" / "thread_siblings_list") & cores | {core})] = None
    return [set(siblings) for siblings in together]


@contextmanager
def kept_off(cores: set[int]) -> Iterator[None]:
    """A process that this thread starts within the block keeps off these cores, with all that it starts in turn."""
    before = os.sched_getaffinity(0)
    if not cores:
        yield
        return
    every = _lasting(before)
    _use(every - cores)
    try:
        yield
    finally:
        _use(every)


def use_kept() -> None:
    """Let the calling thread, and what it starts from now on, use the cores that are kept beside those it uses already."""
    if not (cores := kept()):
        return
    every = _lasting(os.sched_getaffinity(0) | cores)
    # It wakes where it was, if it can: from another socket, or from behind another cache, the kernel would not find the way.
    _use(cores)
    _use(every)


def _use(cores: set[int]) -> None:
    """Have the calling thread run on these alone."""
    try:
        os.sched_setaffinity(0, cores)
    except OSError as fault:
        logger.warning("no core is kept for the engine's threads: %s", fault)


def _lasting(cores: set[int]) -> set[int]:
    """What to ask the kernel for, to have these and not to lose others that it may give later.

    From Linux 6.2 on it remembers what was asked for, and of a cpuset that grows gives that alone. Where the cpuset is all that bounds
    these cores, every core there is can be asked for.
    """
    cpuset = next((listed for name in _CPUSETS if (listed := _listed(_GROUPS / name))), None) or _listed(_CORES / "online")
    return cores | _possible() if cores == cpuset else cores


def _possible() -> set[int]:
    return _listed(_CORES / "possible") or set(range(os.cpu_count() or 1))


def _listed(file: Path) -> set[int]:
    """The numbers of a list as the kernel writes it, such as ``0,16`` or ``0-1``; none where there is no such list."""
    try:
        bounds = [part.partition("-")[::2] for part in file.read_text().strip().split(",")]
        return {number for first, last in bounds for number in range(int(first), int(last or first) + 1)}
    except (OSError, ValueError):
        return set()


def _has_gpu() -> bool:
    return not on_cpu() and any(_DEVICES.glob("nvidia[0-9]*"))
