"""Tickets: what the model process and the engine's workers tell each other of a request, in shared memory.

vLLM's outputs carry no field of a logits processor's own, and a processor never learns a request's id. So the model
process gives every constrained request a ticket, whose number travels in ``SamplingParams.extra_args``; the workers
write into the ticket's record, and the model process reads it.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np

MAX_RANKS = 64
MESSAGE_BYTES = 400

_RECORD = np.dtype(
    [
        ("generation", np.uint32),
        ("failure", np.uint8),
        ("ready", np.uint8, (MAX_RANKS,)),
        ("steps", np.uint32),
        ("resumed", np.uint32),
        ("wait_ns", np.uint64),
        ("longest_wait_ns", np.uint64),
        ("message", f"S{MESSAGE_BYTES}"),
    ],
    align=True,
)


class Failure(IntEnum):
    """Why a matcher stopped guiding its request."""

    NONE = 0
    DEAD_END = 1
    TOO_COMPLEX = 2
    INTERNAL = 3


@dataclass(frozen=True, slots=True)
class Ticket:
    """One use of a record: ``generation`` tells it from the uses before and after."""

    index: int
    generation: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the workers wrote of a ticket.

    ``steps`` counts masks, ``resumed`` returns after preemption; ``wait_ns`` is the wall time, in ns, that the engine's
    steps spent on the masks of the batches this request was in, and ``longest_wait_ns`` the longest of them.
    """

    failure: Failure
    message: str
    steps: int
    resumed: int
    wait_ns: int
    longest_wait_ns: int


class TicketTable:
    """A table of ticket records in a memory-mapped file, which model process and workers have open together."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._records = np.frombuffer(self._memory, dtype=_RECORD)
        self._generations = self._records["generation"]
        self._steps, self._waits, self._longest = self._records["steps"], self._records["wait_ns"], self._records["longest_wait_ns"]

    @classmethod
    def create(cls, tickets: int) -> TicketTable:
        """A new table; the caller removes it by ``unlink``."""
        shared_memory = Path("/dev/shm")
        folder = shared_memory if os.access(shared_memory, os.W_OK) else None
        descriptor, name = tempfile.mkstemp(prefix="ananke-tickets-", dir=folder)
        os.ftruncate(descriptor, tickets * _RECORD.itemsize)
        os.close(descriptor)
        return cls(Path(name))

    def unlink(self) -> None:
        """Remove the file; the processes that have it open keep it until they end."""
        self.path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._records)

    def open(self, index: int) -> Ticket:
        """Begin a new use of a record, with everything in it cleared."""
        record = self._records[index]
        generation = int(record["generation"]) + 1
        # First, so that a late write of the last use finds itself out of date.
        record["generation"] = generation
        record["failure"], record["ready"], record["message"] = Failure.NONE, 0, b""
        for counter in ("steps", "resumed", "wait_ns", "longest_wait_ns"):
            record[counter] = 0
        return Ticket(index, generation)

    def mark_ready(self, ticket: Ticket, rank: int) -> None:
        """Say that a rank has the ticket's matcher at hand, or has failed to make one."""
        if self._is_current(ticket):
            self._records[ticket.index]["ready"][rank] = 1

    def ready_ranks(self, ticket: Ticket) -> int:
        """How many ranks have said so."""
        return int(self._records[ticket.index]["ready"].sum())

    def fail(self, ticket: Ticket, failure: Failure, message: str) -> None:
        """Write down why the ticket's request is no longer guided; the first reason stands."""
        record = self._records[ticket.index]
        if self._is_current(ticket) and not record["failure"]:
            record["message"] = message.encode("utf-8", errors="replace")[:MESSAGE_BYTES]
            record["failure"] = failure

    def count_step(self, tickets: Sequence[Ticket], wait_ns: int) -> None:
        """Add one mask to each ticket, and the wall time of their batch. Costs some 15 us, whatever the batch."""
        indices = np.fromiter((ticket.index for ticket in tickets), np.intp, len(tickets))
        generations = np.fromiter((ticket.generation for ticket in tickets), np.uint32, len(tickets))
        current = indices[self._generations[indices] == generations]
        self._steps[current] += 1
        self._waits[current] += np.uint64(wait_ns)
        self._longest[current] = np.maximum(self._longest[current], np.uint64(wait_ns))

    def count_resumption(self, ticket: Ticket) -> None:
        """Add one return of the ticket's request to the batch."""
        if self._is_current(ticket):
            self._records[ticket.index]["resumed"] += 1

    def outcome(self, ticket: Ticket) -> Outcome:
        """What has been written so far."""
        record = self._records[ticket.index]
        return Outcome(
            failure=Failure(int(record["failure"])),
            message=bytes(record["message"]).decode("utf-8", errors="replace"),
            steps=int(record["steps"]),
            resumed=int(record["resumed"]),
            wait_ns=int(record["wait_ns"]),
            longest_wait_ns=int(record["longest_wait_ns"]),
        )

    def _is_current(self, ticket: Ticket) -> bool:
        return int(self._records[ticket.index]["generation"]) == ticket.generation


class TicketOffice:
    """Hands out the tickets of a table, in the model process."""

    def __init__(self, table: TicketTable) -> None:
        self.table = table
        self._free = list(range(len(table)))
        self._lock = threading.Lock()

    def take(self) -> Ticket | None:
        """A fresh ticket, or None where all are out."""
        with self._lock:
            return self.table.open(self._free.pop(0)) if self._free else None

    def give_back(self, ticket: Ticket) -> None:
        """Free a ticket whose request has ended and whose matchers the workers have let go."""
        with self._lock:
            self._free.append(ticket.index)
