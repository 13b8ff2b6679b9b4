"""Limits: how large a constraint may be. What passes one is refused as ``constraint_too_large``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a constraint's text and of what is compiled from it."""

    bytes: int = 1 << 20
    """UTF-8 bytes of the constraint's JSON text."""
    nesting: int = 200
    """Levels of JSON."""
    enum: int = 10_000
    """Members of an ``enum``, and choices."""
    members: int = 2_000
    """Members of any other array or object of a schema."""
    array_bound: int = 10_000
    """The largest ``minItems`` or ``maxItems``: array bounds are unrolled."""
    rules: int = 1_000
    """Rules of a Lark or GBNF grammar: a chain of 4,000 crashes llguidance."""
    constraints: int = 64
    """Constraints in a composite, nested ones included."""
    lexer_states: int = 50_000
    """States of one matcher's lexer; llguidance's own default of 250,000 can take 500 MB."""
    compile_seconds: float = 1.5
    """Processor time of a compilation in the sandbox; on a busy machine it is ended after one and a half times that by the wall."""
    compile_mib: int = 500
    """Memory that a compilation may add to its sandbox process."""
