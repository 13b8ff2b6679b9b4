"""Plans: what a constraint becomes before a tokenizer comes in, namely a mask program and what is to be said of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ananke_client.report import Diagnostic
from ananke_server.constraints.fragments import Fragment, program_of
from ananke_server.masking.program import Program


@dataclass(frozen=True, slots=True)
class Plan:
    """A constraint's mask program, either as it stands or as grammars of which any has to be satisfied."""

    alternatives: tuple[Fragment, ...] = ()
    """Empty where no grammar of llguidance alone can say it, and ``side_by_side`` does."""
    side_by_side: Program | None = None
    warnings: tuple[Diagnostic, ...] = ()
    relaxed: tuple[Diagnostic, ...] = ()
    """What the mask does not enforce, for the finished output to be verified."""
    rewritten: tuple[Diagnostic, ...] = ()

    @property
    def program(self) -> Program:
        """The program that masks. Costs up to some milliseconds where alternatives have to be told apart."""
        return program_of(self.alternatives) if self.side_by_side is None else self.side_by_side

    @property
    def terminal(self) -> Fragment | None:
        """The one terminal that is the whole plan, if it is a regular language."""
        [first, *others] = self.alternatives or [None]
        return first if first is not None and not others and first.is_terminal else None


def within(place: str, findings: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """A part's findings, with pointers into the whole."""
    return tuple(finding.model_copy(update={"pointer": place + (finding.pointer or "")}) for finding in findings)
