"""Python's heap of a process that serves."""

import gc


def settle() -> None:
    """Leave all that lives now out of garbage collections from now on; to be called when a process is ready.

    A full collection looks at every object. With vLLM imported there are 600,000 of them, and all streams stand still for a third of a
    second each time. Nor do the collectors of processes that are forked later write to it, which would copy its pages.
    """
    gc.collect()
    gc.freeze()


def release() -> None:
    """Collect all garbage, of what was left out too: what cycles still hold of Triton's has to go before its shared memory does."""
    gc.unfreeze()
    gc.collect()
