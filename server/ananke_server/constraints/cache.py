"""The cache of compiled constraints: each is compiled once, however many ask for it, at once or later."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ananke_server.constraints.canonical import text_key
from ananke_server.constraints.compiled import CompiledConstraint

K = TypeVar("K")
V = TypeVar("V")

_TEXTS_AN_ENTRY = 4
_ENTRY_OVERHEAD = 2048


class TextCompiler(Protocol):
    """What the cache stands before."""

    def compile(self, text: str, client: str) -> CompiledConstraint:
        """The constraint of a text, on behalf of a client."""


class BoundedCache(Generic[K, V]):
    """A mapping that keeps to a number of entries and of bytes: the least recently used go first. Not locked."""

    def __init__(self, entries: int, max_bytes: int) -> None:
        self._entries = entries
        self._max_bytes = max_bytes
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.bytes = 0
        self.evictions = 0

    def get(self, key: K) -> V | None:
        """The value, from now on the most recently used."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value; one that is larger than the whole cache is not kept."""
        if size > self._max_bytes:
            return
        if (former := self._values.pop(key, None)) is not None:
            self.bytes -= former[1]
        self._values[key] = (value, size)
        self.bytes += size
        while len(self._values) > self._entries or self.bytes > self._max_bytes:
            _, (_, freed) = self._values.popitem(last=False)
            self.bytes -= freed
            self.evictions += 1

    def __len__(self) -> int:
        return len(self._values)


@dataclass(slots=True)
class CacheCounts:
    """What a cache has done so far."""

    hits: int = 0
    misses: int = 0
    """Compilations."""
    coalesced: int = 0
    """Calls that waited for another's compilation of the same constraint."""
    evictions: int = 0
    compile_seconds: float = 0.0


class CompilationCache:
    """A compiler that remembers. Safe to call from several threads.

    Found by the SHA-256 of the text, else by that of its canonical form. Refusals are kept like the rest; errors that a
    compiler raises (it is overloaded, or broken) are not, and reach everybody who waits for that compilation.
    """

    def __init__(self, compiler: TextCompiler, *, entries: int = 4096, max_bytes: int = 256 << 20) -> None:
        self._compiler = compiler
        self._compiled: BoundedCache[str, CompiledConstraint] = BoundedCache(entries, max_bytes)
        self._keys: BoundedCache[bytes, str] = BoundedCache(_TEXTS_AN_ENTRY * entries, max_bytes)
        self._flights: dict[str, Future[CompiledConstraint]] = {}
        self._counts = CacheCounts()
        self._lock = threading.Lock()

    def compile(self, text: str, client: str = "") -> CompiledConstraint:
        """The constraint of a text. A hit by text costs microseconds, one by canonical form what reading its JSON takes.

        Raises:
            AnankeError: as the compiler raises it.
        """
        digest = hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).digest()
        with self._lock:
            key = self._keys.get(digest)
            found = None if key is None else self._hit(key)
        if found is not None:
            return found
        key = key or text_key(text) or digest.hex()
        with self._lock:
            self._keys.put(digest, key, len(digest) + len(key))
            if (found := self._hit(key)) is not None:
                return found
            flight = self._flights.get(key)
            if flight is None:
                own = self._flights[key] = Future()
                self._counts.misses += 1
            else:
                self._counts.coalesced += 1
        return self._compile(key, text, client, own) if flight is None else flight.result()

    @property
    def counts(self) -> CacheCounts:
        """The counts of now."""
        with self._lock:
            counts = self._counts
            return CacheCounts(counts.hits, counts.misses, counts.coalesced, self._compiled.evictions, counts.compile_seconds)

    def _hit(self, key: str) -> CompiledConstraint | None:
        found = self._compiled.get(key)
        if found is not None:
            self._counts.hits += 1
        return found

    def _compile(self, key: str, text: str, client: str, flight: Future[CompiledConstraint]) -> CompiledConstraint:
        begun = time.monotonic()
        try:
            compiled = self._compiler.compile(text, client)
        except BaseException as fault:
            self._land(key, begun, None)
            flight.set_exception(fault)
            raise
        self._land(key, begun, compiled)
        flight.set_result(compiled)
        return compiled

    def _land(self, key: str, begun: float, compiled: CompiledConstraint | None) -> None:
        size = 0 if compiled is None else _size(compiled)
        with self._lock:
            del self._flights[key]
            self._counts.compile_seconds += time.monotonic() - begun
            if compiled is not None:
                self._compiled.put(key, compiled, size)


def _size(compiled: CompiledConstraint) -> int:
    """About the bytes that it takes."""
    return _ENTRY_OVERHEAD + len(compiled.grammar or "") + 4 * len(compiled.report.model_dump_json())
