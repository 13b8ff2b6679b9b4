"""The compiler that serves: cached, and sandboxed."""

from __future__ import annotations

from ananke_server.constraints.cache import CacheCounts, CompilationCache
from ananke_server.constraints.compiled import CompiledConstraint
from ananke_server.constraints.sandbox import SandboxedCompiler
from ananke_server.settings import Settings


class CompilerService:
    """Compiles untrusted texts: a cache of this process, before a sandbox that all models of a Triton server share."""

    def __init__(self, sandbox: SandboxedCompiler, cache: CompilationCache) -> None:
        self._sandbox = sandbox
        self._cache = cache

    def start(self) -> None:
        """Return once constraints can be compiled. Without it the first compilation waits for that.

        Raises:
            InternalError: the sandbox could not be started; the text says why.
        """
        self._sandbox.start()

    def compile(self, text: str, client: str = "") -> CompiledConstraint:
        """What ``Compiler.compile`` makes of the text; too large, where that takes too much time or memory.

        Clients have fair shares of the sandbox.

        Raises:
            OverloadedError: too many constraints are waiting to be compiled.
            InternalError: the compiler or the sandbox failed.
        """
        return self._cache.compile(text, client)

    def close(self) -> None:
        """Let go of the sandbox; no other call may be under way."""
        self._sandbox.close()

    @property
    def counts(self) -> CacheCounts:
        """What the cache has done so far."""
        return self._cache.counts

    @property
    def killed(self) -> int:
        """Compilations of this process that were ended since they took too much."""
        return self._sandbox.killed


def make_compiler(settings: Settings) -> CompilerService:
    """The compiler of a served model. Starts nothing yet."""
    sandbox = SandboxedCompiler(
        settings.model,
        settings.revision,
        limits=settings.limits,
        kinds=settings.kinds,
        workers=settings.sandbox_workers,
        shared=True,
    )
    cache = CompilationCache(sandbox, entries=settings.compile_cache_entries, max_bytes=settings.compile_cache_mib << 20)
    return CompilerService(sandbox, cache)
