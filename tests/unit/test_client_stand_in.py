"""Stand-ins: what the main thread has done in its place, and its interruptions, which leave no lock taken."""

from __future__ import annotations

import contextvars
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from waiting import PATIENCE, SOON

from ananke_client.stand_in import run

pytestmark = pytest.mark.usefixtures("interruptible")
ROUNDS = 50


class Busy:
    """As grpc: takes a lock of Python code time and again, until it is told to end."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.begun, self.ended = threading.Event(), False

    async def work(self) -> None:
        self.begun.set()
        while not self.ended:
            with self.lock:
                pass

    async def close(self) -> None:
        with self.lock:
            self.ended = True


class Stuck:
    """What nothing ends before the test does."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    async def work(self) -> None:
        self.begun.set()
        self.go_on.wait()


def interrupt_amid(what: Busy | Stuck) -> None:
    def interrupt() -> None:
        what.begun.wait()
        time.sleep(random.uniform(0, 0.005))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()


def test_an_interruption_leaves_no_lock_taken() -> None:
    for _ in range(ROUNDS):
        busy = Busy()
        interrupt_amid(busy)
        with pytest.raises(KeyboardInterrupt):
            run(busy.work(), busy.close)
        assert busy.ended
        free = threading.Thread(target=lambda lock=busy.lock: lock.acquire() and lock.release(), daemon=True)
        free.start()
        free.join(SOON)
        assert not free.is_alive(), "whoever was interrupted has the lock"


def test_what_cannot_be_ended_is_not_waited_for() -> None:
    async def seven() -> int:
        return 7

    stuck = Stuck()
    interrupt_amid(stuck)
    with pytest.raises(KeyboardInterrupt):
        run(stuck.work())
    assert run(seven()) == 7, "another one stands in"
    stuck.go_on.set()


def test_calls_one_after_the_other_have_one_stand_in_and_those_of_other_threads_none() -> None:
    async def thread() -> threading.Thread:
        return threading.current_thread()

    first = run(thread())
    assert first is not threading.main_thread()
    assert len({run(thread()) for _ in range(20)}) < 5, "others of earlier tests may be idle by now"
    seen: list[bool] = []
    other = threading.Thread(target=lambda: seen.append(run(thread()) is threading.current_thread()))
    other.start()
    other.join()
    assert seen == [True]


def test_values_errors_and_context_are_as_without_it() -> None:
    name = contextvars.ContextVar("name", default="")

    async def told() -> str:
        return name.get()

    async def failing() -> None:
        raise LookupError(name.get())

    token = name.set("mine")
    try:
        assert run(told()) == "mine"
        with pytest.raises(LookupError, match="mine"):
            run(failing())
    finally:
        name.reset(token)


def test_an_idle_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def thread() -> threading.Thread:
        return threading.current_thread()

    monkeypatch.setattr("ananke_client.stand_in._IDLE_SECONDS", 0.05)
    stand_in = run(thread())
    stand_in.join(SOON)
    assert not stand_in.is_alive()
    assert run(thread()) is not stand_in


def test_a_forked_process_has_its_own() -> None:
    async def seven() -> int:
        return 7

    run(seven())
    if (child := os.fork()) == 0:
        os._exit(run(seven()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


LAST = """
from ananke_client.stand_in import run

class Last:
    async def word(self):
        return "last"

    def __del__(self):
        print(run(self.word()))

last = Last()
"""


def test_at_the_very_end_there_is_none() -> None:
    done = subprocess.run([sys.executable, "-c", LAST], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("last\n", "")
