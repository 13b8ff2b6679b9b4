"""The sandbox: whatever a compilation does, it is answered in time, and nobody else notices."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import PATIENCE, SOON, wait_until

from ananke_client.errors import ErrorCode, InternalError, OverloadedError
from ananke_server.constraints.compiled import CompiledConstraint, Compiler
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.sandbox import SandboxedCompiler, client
from ananke_server.constraints.sandbox.supervisor import SLOW_PLACES
from ananke_server.launch import DEFAULT_MODEL
from ananke_server.masking.tokenizer import model_tokenizer

HERE = Path(__file__).parent
NUMBERS = itertools.count()
SECONDS, MIB = 2.0, 200
MOST_SECONDS = 1.5 * SECONDS
"""On a machine that is busy with other things."""


def chain(rules: int) -> str:
    return "start: r0\n" + "\n".join(f"r{number}: r{number + 1}" for number in range(rules)) + f'\nr{rules}: "x"'


BOMBS: dict[str, tuple[dict[str, Any], str]] = {
    "much time": ({"do": "spin", "seconds": 60}, "more than 2 s of processor time|more than 3 s"),
    "much memory in Python": ({"do": "hoard", "mib": 1000}, "more than 200 MiB"),
    "much memory in Rust": ({"json_schema": {"type": "array", "minItems": 10**9}}, "more than 200 MiB"),
    "a deep grammar": ({"lark": chain(20_000)}, "SIGSEGV"),
    "many required names": ({"json_schema": {"type": "object", "required": [f"n{n}" for n in range(30_000)]}}, "more than|SIGSEGV|SIGABRT"),
    "an abort": ({"do": "abort"}, "SIGABRT"),
    "a crash": ({"do": "crash"}, "SIGSEGV"),
    "a closed channel": ({"do": "close_channel"}, "SIGKILL"),
    "a large answer": ({"do": "promise_much"}, "more than 32 MiB"),
}


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxedCompiler]:
    """A sandbox of two workers whose compiler has no limits of its own."""
    yield from running(monkeypatch)


def running(monkeypatch: pytest.MonkeyPatch, *, seconds: float = SECONDS, shared: bool = False) -> Iterator[SandboxedCompiler]:
    monkeypatch.setattr(client, "SUPERVISOR", "unlimited_supervisor")
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    limits = Limits(compile_seconds=seconds, compile_mib=MIB)
    compiler = SandboxedCompiler("none", limits=limits, workers=2, shared=shared)
    compiler.start()
    yield compiler
    compiler.close()


@pytest.fixture
def patient_sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxedCompiler]:
    """One that gives a minute to every compilation."""
    yield from running(monkeypatch, seconds=60)


def ask(
    sandbox: SandboxedCompiler, request: dict[str, Any], client: str = "", *, known: bool = False
) -> tuple[CompiledConstraint, float]:
    """The compiled constraint and the seconds it took; of a text that was not there before, unless it is to be a known one."""
    text = json.dumps(request if known else request | {"number": next(NUMBERS)})
    begun = time.monotonic()
    compiled = sandbox.compile(text, client)
    return compiled, time.monotonic() - begun


def worker_of(sandbox: SandboxedCompiler) -> int:
    grammar = ask(sandbox, {"do": "nothing"})[0].grammar
    assert grammar is not None
    return int(grammar)


def supervisor_of(sandbox: SandboxedCompiler) -> psutil.Process:
    assert sandbox._process is not None
    return psutil.Process(sandbox._process.pid)


def workers(sandbox: SandboxedCompiler) -> list[psutil.Process]:
    return supervisor_of(sandbox).children()


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_time_and_the_next_compilation_works(sandbox: SandboxedCompiler, name: str) -> None:
    request, words = BOMBS[name]
    supervisor = supervisor_of(sandbox)
    compiled, seconds = ask(sandbox, request, known=True)
    assert compiled.grammar is None
    [error] = compiled.report.errors
    assert error.code == ErrorCode.CONSTRAINT_TOO_LARGE
    assert re.search(words, error.message), error.message
    assert seconds < MOST_SECONDS + SOON
    assert sandbox.killed == 1
    again, _ = ask(sandbox, request, known=True)
    assert again == compiled
    assert sandbox.killed == 1, "a bomb that is known is not compiled again"
    after, seconds = ask(sandbox, {"json_schema": {"type": "integer"}})
    assert after.report.accepted
    assert seconds < SOON
    assert supervisor_of(sandbox) == supervisor


def test_a_bomb_stays_within_its_memory(patient_sandbox: SandboxedCompiler) -> None:
    sandbox = patient_sandbox
    base = max(process.memory_info().rss for process in workers(sandbox))
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            for process in workers(sandbox):
                try:
                    most = max(most, process.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(3):  # it ends within a tenth of a second, in which a watcher that stands still sees nothing
        ask(sandbox, {"do": "hoard", "mib": 1000})
        ask(sandbox, {"json_schema": {"type": "array", "minItems": 10**7}})
        if most > base + (MIB << 20) / 2:
            break
    done.set()
    watcher.join()
    assert base + (MIB << 20) / 2 < most < base + (MIB + 40 << 20)


def bomb(seconds: float = 60) -> dict[str, Any]:
    return {"do": "spin", "seconds": seconds}


def outcome(sandbox: SandboxedCompiler, request: dict[str, Any]) -> tuple[str | None, float]:
    """The code of its refusal, ``overloaded`` where the machine was too busy or stood still, and the seconds it took."""
    begun = time.monotonic()
    try:
        errors = ask(sandbox, request)[0].report.errors
    except OverloadedError:
        return ErrorCode.OVERLOADED, time.monotonic() - begun
    return errors[0].code if errors else None, time.monotonic() - begun


def test_nobody_waits_for_bombs(sandbox: SandboxedCompiler) -> None:
    with ThreadPoolExecutor(4) as threads:
        bombs = [threads.submit(outcome, sandbox, bomb()) for _ in range(4)]
        latencies = []
        while not all(bomb.done() for bomb in bombs):
            code, seconds = outcome(sandbox, {"json_schema": {"const": len(latencies)}})
            assert code in (None, ErrorCode.OVERLOADED)
            latencies.append(seconds)
        codes, times = zip(*(bomb.result() for bomb in bombs), strict=True)
    assert {*codes} <= {ErrorCode.CONSTRAINT_TOO_LARGE, ErrorCode.OVERLOADED}
    assert sandbox.killed == codes.count(ErrorCode.CONSTRAINT_TOO_LARGE) > 0
    assert max(times) < 3 * min(times), "four are compiled at once"
    latencies.sort()
    assert len(latencies) > 4
    assert latencies[len(latencies) * 3 // 4] < min(times) / 4


def test_what_is_slow_but_within_its_time_gets_it(sandbox: SandboxedCompiler) -> None:
    with ThreadPoolExecutor(6) as threads:
        slow = [threads.submit(ask, sandbox, bomb(0.4)) for _ in range(6)]
        assert all(call.result()[0].report.accepted for call in slow), "those killed for their place are compiled in their turn"
    assert sandbox.killed == 0


def test_what_has_no_time_of_the_processor_is_overload(sandbox: SandboxedCompiler) -> None:
    begun = time.monotonic()
    with pytest.raises(OverloadedError, match="too busy"):
        ask(sandbox, {"do": "sleep", "seconds": 60})
    assert time.monotonic() - begun < MOST_SECONDS + SOON
    assert sandbox.killed == 0


def test_a_busy_machine_does_not_make_a_small_constraint_a_slow_one(sandbox: SandboxedCompiler) -> None:
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * len(os.sched_getaffinity(0)))]
    try:
        with ThreadPoolExecutor(16) as threads:
            calls = [threads.submit(ask, sandbox, bomb(0.03)) for _ in range(64)]
            assert all(call.result()[0].report.accepted for call in calls)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def test_more_than_the_queues_take_is_overload_of_the_client_that_has_most_in_them(
    patient_sandbox: SandboxedCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four take a minute in the slow lane, and eight wait for it."""
    monkeypatch.setattr(client, "_ATTEMPTS", 1)
    sandbox = patient_sandbox
    with ThreadPoolExecutor(21) as threads:
        flood = [threads.submit(ask, sandbox, bomb(), "flood") for _ in range(20)]
        too_many = [call.exception() for call in itertools.islice(as_completed(flood), 8)]
        assert all(isinstance(fault, OverloadedError) and "too many constraints wait" in fault.message for fault in too_many), too_many
        single = threads.submit(ask, sandbox, bomb(), "other")
        left = [call for call in flood if not call.done()]
        [gave_way] = [call.exception() for call in itertools.islice(as_completed([*left, single]), 1)]
        assert isinstance(gave_way, OverloadedError)
        assert "other clients have fewer" in gave_way.message
        assert gave_way.retry_after is not None
        assert not single.done()
        assert ask(sandbox, {"do": "nothing"})[0].report.accepted, "what is quick waits for none of them"
        supervisor_of(sandbox).kill()


def test_many_at_once_from_threads(sandbox: SandboxedCompiler) -> None:
    supervisor = supervisor_of(sandbox)
    schemas = [{"json_schema": {"const": number}} for number in range(100)]
    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(lambda schema: ask(sandbox, schema)[0], schemas))
    assert all(f'"const": {number}' in str(result.grammar).replace("\\", "") for number, result in enumerate(results))
    assert supervisor_of(sandbox) == supervisor


def test_a_worker_is_used_again_unless_it_is_worn(sandbox: SandboxedCompiler) -> None:
    # A worker that took long, on a loaded machine, is not used again.
    assert len({worker_of(sandbox) for _ in range(50)}) < 25
    leaked = ask(sandbox, {"do": "leak", "mib": 100})[0].grammar
    assert worker_of(sandbox) != int(str(leaked))


def test_a_text_is_compiled_once_for_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = [running(monkeypatch, shared=True) for _ in range(3)]
    sandboxes = [next(client) for client in clients]
    leaks = {"do": "leak", "mib": 100}
    try:
        grammars = [ask(sandbox, leaks, known=True)[0].grammar for sandbox in sandboxes for _ in range(2)]
        assert len(set(grammars)) == 1, "whoever leaks compiles nothing more"
        assert ask(sandboxes[0], leaks)[0].grammar not in grammars
    finally:
        for client in clients:
            next(client, None)


def test_of_many_who_ask_for_a_text_at_once_no_more_compile_it_than_have_places(sandbox: SandboxedCompiler) -> None:
    leaks = {"do": "leak", "mib": 100}
    with ThreadPoolExecutor(16) as threads:
        grammars = {call.result()[0].grammar for call in [threads.submit(ask, sandbox, leaks, known=True) for _ in range(16)]}
    # Each that leaks is another worker. On a slow machine those that have the quick lane's two places go on in the slow one.
    assert 1 <= len(grammars) <= 2 + SLOW_PLACES


@pytest.mark.parametrize("fault", ["fail_once", "nonsense_once"])
def test_what_went_wrong_is_tried_again(sandbox: SandboxedCompiler, tmp_path: Path, fault: str) -> None:
    request = {"do": fault, "flag": str(tmp_path / "flag")}
    with pytest.raises(InternalError):
        ask(sandbox, request, known=True)
    assert ask(sandbox, request, known=True)[0].report.accepted


def test_what_a_worker_says_is_not_trusted(sandbox: SandboxedCompiler) -> None:
    with pytest.raises(InternalError):
        ask(sandbox, {"do": "talk_nonsense"})


def test_noise_does_not_hold_a_worker_up(sandbox: SandboxedCompiler) -> None:
    assert ask(sandbox, {"do": "shout"})[0].report.accepted


def test_a_fault_of_the_compiler_is_told(sandbox: SandboxedCompiler) -> None:
    with pytest.raises(InternalError, match="ZeroDivisionError: on demand"):
        ask(sandbox, {"do": "fail"})
    assert ask(sandbox, {"do": "nothing"})[0].report.accepted


def test_a_text_over_the_limit_is_not_even_sent(sandbox: SandboxedCompiler) -> None:
    compiled = sandbox.compile("é" * (1 << 19) + "!")
    assert "1,048,577 bytes" in compiled.report.errors[0].message


def test_an_idle_worker_that_dies_is_replaced(sandbox: SandboxedCompiler) -> None:
    killed = workers(sandbox)
    for process in killed:
        process.kill()
    wait_until(lambda: not {*killed} & {*workers(sandbox)})
    assert all(ask(sandbox, {"do": "nothing"})[0].report.accepted for _ in range(4))


def test_a_supervisor_that_dies_is_started_again(sandbox: SandboxedCompiler) -> None:
    orphans = workers(sandbox)
    supervisor_of(sandbox).kill()
    assert ask(sandbox, {"do": "nothing"})[0].report.accepted
    assert not psutil.wait_procs(orphans, PATIENCE)[1], "its workers end with it"


def test_all_ends_with_close(sandbox: SandboxedCompiler) -> None:
    processes = [*workers(sandbox), supervisor_of(sandbox)]
    folder = sandbox._folder
    sandbox.close()
    assert not psutil.wait_procs(processes, PATIENCE)[1]
    assert not folder.exists()


PARENT = """
import json, sys, threading, time
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.sandbox import SandboxedCompiler, client
client.SUPERVISOR = "unlimited_supervisor"
sandbox = SandboxedCompiler("none", limits=Limits(compile_seconds=60))
sandbox.start()
threading.Thread(target=sandbox.compile, args=('{"do": "spin", "seconds": 60}',), daemon=True).start()
time.sleep(0.5)
print(sandbox._process.pid, sandbox._folder, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_all_ends_with_the_parent(number: signal.Signals) -> None:
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        supervisor = psutil.Process(int(pid))
        processes = [supervisor, *supervisor.children()]
        assert len(processes) >= 3
        parent.send_signal(number)
        assert not psutil.wait_procs(processes, PATIENCE)[1]
    assert not Path(folder).exists()


class TestShared:
    def test_one_sandbox_for_all_of_one_parent_as_long_as_the_last_lives(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = running(monkeypatch, shared=True), running(monkeypatch, shared=True)
        one, other = next(first), next(second)
        assert worker_of(one) == worker_of(other)
        next(first, None)
        assert ask(other, {"do": "nothing"})[0].report.accepted
        next(second, None)

    def test_other_limits_are_another_sandbox(self) -> None:
        one = SandboxedCompiler("none", limits=Limits(compile_mib=1), shared=True)
        other = SandboxedCompiler("none", limits=Limits(compile_mib=2), shared=True)
        assert one._folder != other._folder

    def test_a_folder_that_others_may_enter_is_not_used(self) -> None:
        compiler = SandboxedCompiler("none", limits=Limits(compile_mib=3), shared=True)
        compiler._folder.mkdir()
        compiler._folder.chmod(0o755)
        try:
            with pytest.raises(PermissionError, match="not this user's alone"):
                compiler.start()
        finally:
            compiler._folder.rmdir()


def test_a_model_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    compiler = SandboxedCompiler(str(tmp_path))
    try:
        with pytest.raises(InternalError, match="could not be loaded"):
            compiler.start()
    finally:
        compiler.close()


@pytest.fixture(scope="module")
def compiler() -> Iterator[SandboxedCompiler]:
    sandbox = SandboxedCompiler(str(DEFAULT_MODEL))
    yield sandbox
    sandbox.close()


@pytest.mark.skipif(not DEFAULT_MODEL.is_dir(), reason="the small model is missing")
class TestRealCompiler:
    def test_results_are_those_of_the_plain_compiler(self, compiler: SandboxedCompiler) -> None:
        plain = Compiler(model_tokenizer(str(DEFAULT_MODEL)))
        for constraint in (
            {"type": "regex", "pattern": "[a-zä]+"},
            {"type": "regex", "pattern": "a("},
            {"type": "json_schema", "schema": {"type": "object", "properties": {"ü": {"type": "integer"}}}},
            {"type": "json_schema", "schema": {"type": 3}},
            {"type": "choice", "choices": ["\ud800"]},
            {"type": "choice", "choices": ["€", "\x00"]},
            {"type": "grammar", "syntax": "lark", "grammar": "start: b"},
        ):
            for text in (json.dumps(constraint), json.dumps(constraint, ensure_ascii=False), json.dumps(constraint)[:-1]):
                assert compiler.compile(text) == plain.compile(text)

    def test_within_our_limits_the_worst_is_answered_in_time(self, compiler: SandboxedCompiler) -> None:
        compiler.start()
        assert supervisor_of(compiler).num_threads() == 1, "what forks has one thread"
        grammar = "start: " + " | ".join(f'"k{number}x"' for number in range(50_000))
        begun = time.monotonic()
        compiled = compiler.compile(json.dumps({"type": "grammar", "syntax": "lark", "grammar": grammar}))
        assert time.monotonic() - begun < 1.5 * Limits().compile_seconds + SOON
        assert compiled.report.errors[0].code == ErrorCode.CONSTRAINT_TOO_LARGE
        assert compiler.compile('{"type": "regex", "pattern": "a"}').report.accepted
