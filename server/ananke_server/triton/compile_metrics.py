"""Metrics of compiling constraints, summed over every process that compiles: the instances of ``validate``, and ``guided_vllm``."""

from __future__ import annotations

from ananke_server.constraints.service import CompilerService
from ananke_server.triton.counters import Family, Key

HITS = "ananke_compile_cache_hits_total"
MISSES = "ananke_compile_cache_misses_total"
COALESCED = "ananke_compile_cache_coalesced_total"
EVICTIONS = "ananke_compile_cache_evictions_total"
SECONDS = "ananke_compile_seconds_total"
KILLS = "ananke_sandbox_kills_total"
COMPILE_FAMILIES = {
    HITS: Family("Constraints answered from the cache of compiled constraints"),
    MISSES: Family("Constraints that had to be compiled"),
    COALESCED: Family("Constraints that waited for another request's compilation of the same"),
    EVICTIONS: Family("Compiled constraints that the cache had no more room for"),
    SECONDS: Family("Seconds that compilations took, waiting for the sandbox included"),
    KILLS: Family("Compilations ended by the sandbox, since they took too much time or memory or crashed"),
}


def compile_totals(compiler: CompilerService) -> dict[Key, float]:
    """What a compiler has done so far."""
    counts = compiler.counts
    return {
        (HITS, ()): counts.hits,
        (MISSES, ()): counts.misses,
        (COALESCED, ()): counts.coalesced,
        (EVICTIONS, ()): counts.evictions,
        (SECONDS, ()): counts.compile_seconds,
        (KILLS, ()): compiler.killed,
    }
