"""What the engine tells of itself with each step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class EngineFigures:
    """The newest figures of the scheduler, and sums over every engine that there was; may be read from any thread."""

    running: int = 0
    """Requests in the batch."""
    waiting: int = 0
    """Requests that the scheduler has not taken into the batch, or has put back."""
    kv_cache_usage: float = 0.0
    """Share of the KV cache's blocks in use, 0 to 1."""
    prefix_queries: int = 0
    """Tokens of prompts that were looked up in the prefix cache."""
    prefix_hits: int = 0
    """Tokens that were found there."""
    preemptions: int = 0

    def begin(self) -> None:
        """A new engine has neither batch nor queue yet."""
        self.running = self.waiting = 0
        self.kv_cache_usage = 0.0
