"""Stand-ins: threads that work with a blocking transport in the main thread's place.

Python raises ``KeyboardInterrupt`` in the main thread wherever that is, and so between the taking of a lock and the block that lets
it go: the conditions of grpc, httpcore and the standard library are Python code that can be met there, and whoever wants such a lock
again waits for ever. So the main thread takes none of them: it waits for a stand-in, which no signal reaches.
"""

from __future__ import annotations

import contextvars
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")
Outcome = tuple[Any, BaseException | None]
Answer = queue.SimpleQueue[Outcome]

_IDLE_SECONDS = 10.0
"""For which a stand-in waits for more before it ends."""

_LOOK_SECONDS = 0.2
"""After which the main thread looks for an interruption, on systems that do not wake it for one."""


def run(coroutine: Coroutine[Any, Any, T], close: Callable[[], Coroutine[Any, Any, None]] | None = None) -> T:
    """The value of a coroutine over a transport that blocks.

    Args:
        close: what ends the coroutine's call where the main thread is interrupted, before the interruption is raised.
    """
    if threading.current_thread() is not threading.main_thread() or sys.is_finalizing():
        return _value(coroutine)
    context = contextvars.copy_context()
    try:
        value, error = _stood_in(lambda: context.run(_value, coroutine))
    except BaseException:
        if close is not None:
            run(close())
        raise
    if error is not None:
        try:
            raise error
        finally:
            del error  # its traceback holds this frame
    result: T = value
    return result


def taken(items: queue.SimpleQueue[T]) -> T:
    """The next item of a queue, waited for; an interruption ends the wait on every system."""
    while True:
        try:
            return items.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            continue


def _stood_in(work: Callable[[], Any]) -> Outcome:
    answer: Answer = queue.SimpleQueue()
    try:
        stand_in = _StandIn.idle.pop()
    except IndexError:
        stand_in = _StandIn()
    stand_in.work.put((work, answer))
    return taken(answer)


class _StandIn:
    """A thread that does what it is given, one after the other. Nothing waits for its end: it may stand in for what was interrupted."""

    idle: ClassVar[deque[_StandIn]] = deque()

    def __init__(self) -> None:
        self.work: queue.SimpleQueue[tuple[Callable[[], Any], Answer]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="ananke-stand-in", daemon=True).start()

    def _run(self) -> None:
        while (given := self._next()) is not None:
            work, answer = given
            outcome = _outcome(work)
            self.idle.append(self)  # before the answer, which may be followed by more at once
            answer.put(outcome)
            del given, work, answer, outcome

    def _next(self) -> tuple[Callable[[], Any], Answer] | None:
        while True:
            try:
                return self.work.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                try:
                    self.idle.remove(self)
                except ValueError:
                    continue  # taken in this moment: there will be work
                return None


def _outcome(work: Callable[[], Any]) -> Outcome:
    try:
        return work(), None
    except BaseException as error:
        return None, error


def _value(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    coroutine.close()
    raise RuntimeError("a blocking transport suspended")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_StandIn.idle.clear)
