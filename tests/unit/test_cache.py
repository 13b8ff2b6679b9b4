"""The cache: one compilation a constraint, within bounds, and every call counted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from waiting import PATIENCE, SOON

from ananke_client.errors import OverloadedError
from ananke_client.report import ConstraintReport
from ananke_server.constraints.cache import BoundedCache, CompilationCache
from ananke_server.constraints.compiled import CompiledConstraint


class RecordingCompiler:
    """Accepts every text as its own grammar, and remembers what it was asked for."""

    def __init__(self, before: Callable[[str], None] = lambda text: None) -> None:
        self.texts: list[str] = []
        self._before = before

    def compile(self, text: str, client: str) -> CompiledConstraint:
        self.texts.append(text)
        self._before(text)
        return CompiledConstraint(ConstraintReport(accepted="bad" not in text), text)


class TestCompilations:
    def test_a_text_is_compiled_once(self) -> None:
        compiler = RecordingCompiler()
        cache = CompilationCache(compiler)
        assert cache.compile('{"a": 1}') is cache.compile('{"a": 1}')
        assert compiler.texts == ['{"a": 1}']
        assert (cache.counts.hits, cache.counts.misses) == (1, 1)

    def test_so_are_texts_of_one_canonical_form(self) -> None:
        compiler = RecordingCompiler()
        cache = CompilationCache(compiler)
        for text in ('{"a": 1, "b": 2}', '{"b":2,"a":1}', '{"a": 1, "b": 2 }'):
            assert cache.compile(text).grammar == '{"a": 1, "b": 2}'
        assert cache.counts.hits == 2

    def test_texts_without_one_are_told_apart(self) -> None:
        compiler = RecordingCompiler()
        cache = CompilationCache(compiler)
        for text in ("{", "{ ", "{", '{"a":1,"a":1}', '{"a":1}', "\ud800"):
            assert cache.compile(text).grammar == text
        assert compiler.texts == ["{", "{ ", '{"a":1,"a":1}', '{"a":1}', "\ud800"]

    def test_refusals_are_kept(self) -> None:
        compiler = RecordingCompiler()
        cache = CompilationCache(compiler)
        assert not cache.compile('"bad"').report.accepted
        cache.compile('"bad"')
        assert len(compiler.texts) == 1

    def test_errors_are_not(self) -> None:
        def fail_first(text: str) -> None:
            if len(compiler.texts) == 1:
                raise OverloadedError("too many")

        compiler = RecordingCompiler(fail_first)
        cache = CompilationCache(compiler)
        with pytest.raises(OverloadedError):
            cache.compile("1")
        assert cache.compile("1").report.accepted
        assert cache.counts.misses == 2

    def test_seconds_are_counted(self) -> None:
        cache = CompilationCache(RecordingCompiler(lambda text: threading.Event().wait(0.05)))
        cache.compile("1")
        cache.compile("1")
        assert 0.05 <= cache.counts.compile_seconds < SOON


class TestSingleFlight:
    def test_calls_at_once_share_a_compilation(self) -> None:
        begun, go_on = threading.Event(), threading.Event()

        def wait(text: str) -> None:
            begun.set()
            assert go_on.wait(PATIENCE)

        compiler = RecordingCompiler(wait)
        cache = CompilationCache(compiler)
        with ThreadPoolExecutor(8) as threads:
            calls = [threads.submit(cache.compile, '{"a":1}' + " " * number) for number in range(8)]
            assert begun.wait(PATIENCE)
            while cache.counts.coalesced < 7:
                pass
            go_on.set()
            results = [call.result() for call in calls]
        assert len(compiler.texts) == 1
        assert all(result is results[0] for result in results)
        assert (cache.counts.hits, cache.counts.misses, cache.counts.coalesced) == (0, 1, 7)

    def test_an_error_reaches_all_of_them_and_is_forgotten(self) -> None:
        go_on = threading.Event()

        def fail(text: str) -> None:
            assert go_on.wait(PATIENCE)
            if len(compiler.texts) == 1:
                raise OverloadedError("too many")

        compiler = RecordingCompiler(fail)
        cache = CompilationCache(compiler)
        with ThreadPoolExecutor(4) as threads:
            calls = [threads.submit(cache.compile, "1") for _ in range(4)]
            while cache.counts.coalesced < 3:
                pass
            go_on.set()
            assert all(isinstance(call.exception(), OverloadedError) for call in calls)
        assert cache.compile("1").report.accepted

    def test_another_constraint_does_not_wait(self) -> None:
        go_on = threading.Event()
        cache = CompilationCache(RecordingCompiler(lambda text: assert_(text != "1" or go_on.wait(PATIENCE))))
        with ThreadPoolExecutor(1) as threads:
            slow = threads.submit(cache.compile, "1")
            assert cache.compile("2").grammar == "2"
            assert not slow.done()
            go_on.set()


class TestBounds:
    def test_entries(self) -> None:
        compiler = RecordingCompiler()
        cache = CompilationCache(compiler, entries=2)
        for text in ("1", "2", "1", "3", "1", "2"):
            cache.compile(text)
        assert compiler.texts == ["1", "2", "3", "2"], "the least recently used goes first"
        assert cache.counts.evictions == 2

    def test_bytes(self) -> None:
        compiler = RecordingCompiler()
        cache = CompilationCache(compiler, max_bytes=300_000)
        for text in ('"a' + "a" * 100_000 + '"', '"b' + "b" * 100_000 + '"', '"c' + "c" * 100_000 + '"'):
            cache.compile(text)
            cache.compile(text)
        assert len(compiler.texts) == 3
        assert cache.counts.evictions == 1

    def test_what_is_larger_than_the_cache_is_not_kept(self) -> None:
        cache: BoundedCache[str, str] = BoundedCache(10, 100)
        cache.put("small", "s", 60)
        cache.put("large", "l", 101)
        assert cache.get("small") == "s"
        assert cache.get("large") is None
        assert cache.evictions == 0

    def test_a_value_replaced_is_counted_once(self) -> None:
        cache: BoundedCache[str, str] = BoundedCache(10, 100)
        for _ in range(5):
            cache.put("a", "x", 60)
        assert (len(cache), cache.bytes, cache.evictions) == (1, 60, 0)


def assert_(holds: bool) -> None:
    assert holds
