"""Judgements: an instance that is known to be valid or not, held against the masks of a schema and against its validator."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llguidance import LLParserLimits
from replay import Exhausted, Replayer, Spelling, Stop

from ananke_server.constraints import Compiler
from ananke_server.constraints.verify import fault_of
from ananke_server.masking.program_matcher import ProgramMatcher

Verdict = Literal["right", "narrowed", "wrong", "respelled", "caught", "alarm"]
"""``right``: masks and validator agree with the flag.

``narrowed``: valid, but the masks cannot produce it. ``alarm``: valid and producible, but the validator refuses it. ``wrong``:
invalid, and accepted. ``respelled``: invalid, and accepted in another spelling alone (order of properties, form of numbers, escapes).
``caught``: accepted under the label ``verified``, and refused by the validator, as that label promises.
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """A schema that is enforced. ``constraint`` is what the validator judges outputs by; None where there is no validator."""

    program: str
    guarantee: str
    constraint: str | None = None
    limits: LLParserLimits | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A schema that is refused, by its diagnostics' codes and messages."""

    reasons: list[tuple[str, str]]


CompileSchema = Callable[[Any], Taken | Refused]


def schema_compiler(compiler: Compiler, options: dict[str, str]) -> CompileSchema:
    """The server's own way with schemas, under these options of the constraint."""

    def compile_(schema: Any) -> Taken | Refused:
        text = json.dumps({"type": "json_schema", "schema": schema} | options, ensure_ascii=False)
        compiled = compiler.compile(text)
        if compiled.grammar is None:
            return Refused([(error.code, f"{error.message} at {error.pointer}") for error in compiled.report.errors])
        return Taken(compiled.grammar, compiled.report.guarantee, text)

    return compile_


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, why, and whether the search for another spelling ended before all were tried."""

    verdict: Verdict
    cause: str = ""
    exhausted: bool = False


class Judge:
    """Judges instances by one schema's masks and validator."""

    def __init__(self, taken: Taken, replayer: Replayer, separators: Sequence[tuple[str, str]], schema: Any = None) -> None:
        """``separators``: a valid instance is to be producible with each of them, an invalid one with none.
        The ``schema`` says in which order masks may want properties."""
        self._taken = taken
        self._replayer = replayer
        self._separators = separators
        self._matcher = replayer.matcher(taken.program, taken.limits)
        self._spelling = Spelling(taken.program, separators[0], taken.limits, names=list(dict.fromkeys(property_names(schema))))

    def judge(self, data: Any, *, valid: bool) -> Judgement:
        """Replay the instance."""
        texts = [json.dumps(data, ensure_ascii=False, separators=form) for form in self._separators]
        stops = [self._stop(text) for text in texts]
        if valid and not any(stops):
            fault = self._fault(texts[0])
            return Judgement("alarm", fault) if fault else Judgement("right")
        exhausted, found = False, None
        try:
            found = self._spelling.find(data)
        except Exhausted:
            exhausted = True
        if valid:
            stop = next(filter(None, stops))
            cause = ("; ".join(found[1]) or "a token is refused whose bytes are not") if found else f"stops at {stop}"
            cause += " (not all spellings were tried)" if exhausted else ""
            return Judgement("narrowed", cause, exhausted)
        usual = [text for text, stop in zip(texts, stops, strict=True) if stop is None]
        return self._accepted(usual, [*usual, found[0]] if found else usual, exhausted)

    def _stop(self, text: str) -> Stop | None:
        stop = self._replayer.stop(self._matcher, text)
        if isinstance(self._matcher, ProgramMatcher):
            self._matcher.rewind()
        elif not self._matcher.reset():  # it never leaves its error state
            self._matcher = self._replayer.matcher(self._taken.program, self._taken.limits)
        return stop

    def _accepted(self, usual: list[str], texts: list[str], exhausted: bool) -> Judgement:
        """An invalid instance by the texts of it that the masks produce, and the usual ones among them."""
        if not texts:
            return Judgement("right", exhausted=exhausted)
        if self._taken.guarantee != "exact" and all(self._fault(text) for text in texts):
            return Judgement("caught", texts[0], exhausted)
        return Judgement("wrong" if usual else "respelled", texts[0], exhausted)

    def _fault(self, text: str) -> str:
        if self._taken.constraint is None:
            return ""
        return fault_of(self._taken.constraint, text, exact=self._taken.guarantee == "exact") or ""


def property_names(schema: Any) -> Iterator[str]:
    """The names of a schema's properties as they stand in it, an object's own before those within."""
    if isinstance(schema, list):
        for part in schema:
            yield from property_names(part)
    elif isinstance(schema, dict):
        own = schema.get("properties")
        yield from own if isinstance(own, dict) else ()
        for part in schema.values():
            yield from property_names(part)
