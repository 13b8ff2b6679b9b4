"""Compiled constraints: a report, and a grammar where the constraint is accepted."""

from __future__ import annotations

from dataclasses import dataclass

from llguidance import LLTokenizer

from ananke_client.constraint import Constraint
from ananke_client.report import ConstraintReport
from ananke_server.constraints.canonical import constraint_key
from ananke_server.constraints.complaints import diagnostic_of
from ananke_server.constraints.grammars import plan_of
from ananke_server.constraints.kinds import Kinds
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.parse import read, too_deep
from ananke_server.constraints.refusal import Refusal
from ananke_server.masking.program import to_text
from ananke_server.masking.program_matcher import new_program


@dataclass(frozen=True, slots=True)
class CompiledConstraint:
    """What validation makes of a constraint's text; ``grammar`` is None where it is refused or absent."""

    report: ConstraintReport
    grammar: str | None


UNCONSTRAINED = CompiledConstraint(ConstraintReport(accepted=True), None)
"""What a request without a constraint is held to."""


class Compiler:
    """Compiles constraints for one tokenizer. Stateless, and safe to call from several threads."""

    def __init__(self, tokenizer: LLTokenizer, limits: Limits | None = None, kinds: Kinds | None = None) -> None:
        self._tokenizer = tokenizer
        self._limits = limits or Limits()
        self._kinds = kinds or Kinds()

    def compile(self, text: str) -> CompiledConstraint:
        """The constraint of a JSON text; one that cannot be enforced comes back with its diagnostics. Never raises for the text."""
        reading = kind = None
        try:
            reading = read(text, self._limits)
            constraint = reading.constraint
            kind = constraint.type
            self._kinds.check(constraint)
            plan = plan_of(constraint, self._limits)
            grammar = to_text(plan.program)
            self._check(constraint, grammar)
        except Refusal as refusal:
            errors = refusal.diagnostics if reading is None else reading.placed(refusal.diagnostics)
            return CompiledConstraint(ConstraintReport(accepted=False, kind=kind, errors=errors), None)
        except RecursionError:
            return CompiledConstraint(ConstraintReport(accepted=False, kind=kind, errors=too_deep(self._limits).diagnostics), None)
        report = ConstraintReport(
            accepted=True,
            kind=kind,
            guarantee="verified" if plan.relaxed else "exact",
            key=constraint_key(constraint),
            warnings=[*reading.warnings, *reading.placed(plan.warnings)],
            relaxed=reading.placed(plan.relaxed),
            rewritten=reading.placed(plan.rewritten),
        )
        return CompiledConstraint(report, grammar)

    def satisfies(self, grammar: str, tokens: list[int]) -> bool:
        """Whether a fresh matcher takes these output tokens, the end-of-sequence token aside, from start to acceptance."""
        matcher = new_program(self._tokenizer, grammar, self._limits.lexer_states)
        while tokens and tokens[-1] in self._tokenizer.eos_tokens:
            tokens = tokens[:-1]
        return matcher.consume_tokens(tokens) and matcher.is_accepting()

    def satisfies_text(self, grammar: str, text: str) -> bool:
        """The same of a text, for outputs that were cut within a token."""
        return self.satisfies(grammar, self._tokenizer.greedy_tokenize(text))

    def _check(self, constraint: Constraint, grammar: str) -> None:
        """Hold the grammar against llguidance, its first mask included, which finds one that admits nothing."""
        matcher = new_program(self._tokenizer, grammar, self._limits.lexer_states)
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            raise Refusal([diagnostic_of(constraint, matcher.error_text())])

