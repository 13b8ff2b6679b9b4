"""Reports: what the server made of a constraint."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Guarantee = Literal["exact", "verified", "none"]
"""``exact``: masks admit valid outputs alone; ``verified``: the finished output was checked; ``none``: neither."""


class Diagnostic(BaseModel):
    """One finding: a code, its place in the constraint, and what to change."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    code: str
    message: str
    pointer: str | None = None
    """JSON pointer into the constraint; the empty string is the whole of it."""
    line: int | None = None
    """Line in a grammar's text, from 1."""
    column: int | None = None
    """Column in that line, from 1."""
    hint: str | None = None

    def __str__(self) -> str:
        place = self._place()
        head = f"[{self.code}] at {place}: " if place else f"[{self.code}] "
        return head + self.message + (f" ({self.hint})" if self.hint else "")

    def _place(self) -> str:
        parts = [] if self.pointer is None else [self.pointer or "the root"]
        if self.line is not None:
            parts.append(str(self.line) if self.column is None else f"{self.line}:{self.column}")
        return ":".join(parts)


class ConstraintReport(BaseModel):
    """What the server made of a constraint; after a generation, also whether the output satisfies it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    accepted: bool
    kind: str | None = None
    """The constraint's ``type``."""
    guarantee: Guarantee = "none"
    key: str | None = None
    """Digest of the constraint in canonical form; equal keys share one compiled grammar."""
    errors: list[Diagnostic] = Field(default_factory=list)
    warnings: list[Diagnostic] = Field(default_factory=list)
    relaxed: list[Diagnostic] = Field(default_factory=list)
    """Parts of the constraint that masks do not enforce: they are verified on the finished output."""
    rewritten: list[Diagnostic] = Field(default_factory=list)
    """Parts of the constraint that masks enforce in an equivalent form."""
    constraint_satisfied: bool | None = None
    """None before a generation."""
    unsatisfied_reason: str | None = None

    def __str__(self) -> str:
        head = f"{self.kind or 'constraint'}: {f'accepted, {self.guarantee}' if self.accepted else 'refused'}"
        findings = (("error", self.errors), ("warning", self.warnings), ("relaxed", self.relaxed), ("rewritten", self.rewritten))
        return "\n".join([head, *(f"  {label} {diagnostic}" for label, diagnostics in findings for diagnostic in diagnostics)])
