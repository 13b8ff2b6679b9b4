"""Verdicts: whether a finished output satisfies its constraint, by a fresh matcher and then by a validator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ananke_client.constraint import Constraint
from ananke_client.report import ConstraintReport
from ananke_server.constraints import CompiledConstraint, Compiler
from ananke_server.constraints.verify import fault_of

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput


class Verdict(NamedTuple):
    """What is wrong with an output, if anything is, and whether that is but its having been cut."""

    fault: str | None
    is_cut: bool = False


class Judge:
    """Judges outputs. Stateless, and safe to call from several threads."""

    def __init__(self, replayer: Compiler, compile: Callable[[str], CompiledConstraint]) -> None:
        """``replayer`` has the engine's own tokenizer; ``compile`` is for parts of a constraint, as untrusted as the whole."""
        self._replayer = replayer
        self._compile = compile

    def verdict(
        self, constraint: str | None, compiled: CompiledConstraint, text: str, token_ids: list[int], last: CompletionOutput
    ) -> Verdict | None:
        """The verdict on an output, None where there was no constraint. Costs what compiling the grammar and replaying the tokens costs.

        Args:
            text: the output, without the prompt.
            last: vLLM's last word on it, which says why it ended.
        """
        if constraint is None or compiled.grammar is None:
            return None
        if last.finish_reason != "stop":
            cut = "max_tokens or the model's context" if last.finish_reason == "length" else last.finish_reason
            return Verdict(f"the output was cut by {cut}", is_cut=True)
        if isinstance(last.stop_reason, str):
            if not self._replayer.satisfies_text(compiled.grammar, text):
                return Verdict(f"the stop string {last.stop_reason!r} cut the output", is_cut=True)
        elif not self._replayer.satisfies(compiled.grammar, token_ids):
            return Verdict("the output is not within the constraint")
        return Verdict(fault_of(constraint, text, exact=compiled.report.guarantee == "exact", matches=self._matches))

    def _matches(self, member: Constraint, text: str) -> bool:
        compiled = self._compile(member.to_json())
        return compiled.grammar is not None and self._replayer.satisfies_text(compiled.grammar, text)


def report_with(verdict: Verdict | None, report: ConstraintReport) -> ConstraintReport:
    """A constraint's report, with the verdict on an output in it."""
    if verdict is None:
        return report
    return report.model_copy(update={"constraint_satisfied": verdict.fault is None, "unsatisfied_reason": verdict.fault})
