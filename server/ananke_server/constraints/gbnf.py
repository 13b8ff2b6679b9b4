"""GBNF, llama.cpp's grammar notation, as Lark.

GBNF has no lexer: its terminals are characters. What recurs only through repetition is one Lark terminal; any other grammar is
written with a lexeme a character, since llguidance's greedy lexer would take a longer one for more than the grammar means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from ananke_client.errors import ErrorCode
from ananke_client.report import Diagnostic
from ananke_server.constraints.fragments import Fragment, terminal
from ananke_server.constraints.gbnf_reader import (
    Characters,
    Choice,
    Expression,
    Reader,
    Reference,
    Repetition,
    Rule,
    Sequence,
    SpecialToken,
)
from ananke_server.constraints.lark_tokens import place_of
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.plan import Plan
from ananke_server.constraints.productivity import productive
from ananke_server.constraints.refusal import Refusal
from ananke_server.constraints.regex.source import class_source


def gbnf_plan(grammar: str, limits: Limits) -> Plan:
    """The grammar's plan: a terminal where no rule refers back to itself. Exact, save where tokens and characters meet.

    Raises:
        Refusal: the grammar is malformed, too large, refers to rules that it does not have or derives nothing, with line and column.
    """
    rules = Reader(grammar, limits).rules()
    if faults := list(_faults(grammar, rules)):
        raise Refusal(faults)
    reachable = _reachable(rules)
    uses = {name: [reference.name for reference in _references(rules[name].body)] for name in reachable}
    if "root" not in productive(uses, lambda name, known: _derives(rules[name].body, known)):
        raise Refusal([_fault(grammar, rules["root"].offset, "'root' derives no finite text", "give the recursion an end")])
    warnings = (_at_tokens(),) if _mixes_tokens(rules, reachable) else ()
    return Plan((_Writer(rules, reachable).fragment(),), warnings=warnings)


def _mixes_tokens(rules: dict[str, Rule], reachable: list[str]) -> bool:
    kinds = {type(part) for name in reachable for part in _parts(rules[name].body)}
    return {SpecialToken, Characters} <= kinds


def _at_tokens() -> Diagnostic:
    message = "where a token and a character could both follow, what fits the token is taken for it alone"
    hint = "let tokens stand where no character can"
    return Diagnostic(code="narrowed", message=message, pointer="/grammar", hint=hint)


def _faults(grammar: str, rules: dict[str, Rule]) -> Iterator[Diagnostic]:
    if "root" not in rules:
        yield _fault(grammar, None, "the grammar has no rule 'root'", "name the first rule 'root'")
    for rule in rules.values():
        for reference in _references(rule.body):
            if reference.name not in rules:
                yield _fault(grammar, reference.offset, f"the rule {reference.name[:80]!r} is not defined")


def _fault(grammar: str, offset: int | None, message: str, hint: str | None = None) -> Diagnostic:
    line, column = (None, None) if offset is None else place_of(grammar, offset)
    return Diagnostic(code=ErrorCode.INVALID_CONSTRAINT, message=message, pointer="/grammar", line=line, column=column, hint=hint)


def _parts(expression: Expression) -> Iterator[Expression]:
    yield expression
    match expression:
        case Choice() | Sequence():
            for part in expression.parts:
                yield from _parts(part)
        case Repetition():
            yield from _parts(expression.body)


def _references(expression: Expression) -> Iterator[Reference]:
    return (part for part in _parts(expression) if isinstance(part, Reference))


def _reachable(rules: dict[str, Rule]) -> list[str]:
    """The rules that the root needs, itself first."""
    found = {"root": None}
    pending = ["root"]
    while pending:
        for reference in _references(rules[pending.pop()].body):
            if reference.name not in found:
                found[reference.name] = None
                pending.append(reference.name)
    return list(found)


def _derives(expression: Expression, known: set[str]) -> bool:
    match expression:
        case Choice():
            return any(_derives(part, known) for part in expression.parts)
        case Sequence():
            return all(_derives(part, known) for part in expression.parts)
        case Repetition():
            return expression.least == 0 or _derives(expression.body, known)
        case Reference():
            return expression.name in known
    return True


@dataclass(slots=True)
class _Writer:
    """Writes the reachable rules as Lark."""

    rules: dict[str, Rule]
    reachable: list[str]
    whole: bool = field(init=False)
    """Whether all of it is one terminal."""
    numbers: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = {name: number for number, name in enumerate(self.reachable)}
        bodies = [self.rules[name].body for name in self.reachable]
        tokens = any(isinstance(part, SpecialToken) for body in bodies for part in _parts(body))
        self.whole = not tokens and self._is_finite_descent()

    def fragment(self) -> Fragment:
        lines = [f"{self._name(name)}: {self._text(self.rules[name].body)}" for name in self.reachable]
        return terminal(self._name("root"), "\n".join(lines)) if self.whole else Fragment("\n".join(lines))

    def _is_finite_descent(self) -> bool:
        """Whether no rule refers back to itself."""
        order = TopologicalSorter({name: [reference.name for reference in _references(self.rules[name].body)] for name in self.reachable})
        try:
            order.prepare()
        except CycleError:
            return False
        return True

    def _name(self, name: str) -> str:
        if self.whole:
            return f"R{self.numbers[name]}"
        return "start" if name == "root" else f"r{self.numbers[name]}"

    def _text(self, expression: Expression) -> str:
        match expression:
            case Choice():
                return " | ".join(map(self._text, expression.parts))
            case Sequence():
                return " ".join(map(self._atom, expression.parts)) or '""'
        return self._atom(expression)

    def _atom(self, expression: Expression) -> str:
        match expression:
            case Reference():
                return self._name(expression.name)
            case SpecialToken():
                return expression.lark
            case Characters():
                return f"/{class_source(expression.members)}/"
            case Repetition():
                body = self._atom(expression.body)
                nested = isinstance(expression.body, Repetition)
                return (f"({body})" if nested else body) + _bounds(expression.least, expression.most)
        return f"({self._text(expression)})"


def _bounds(least: int, most: int | None) -> str:
    simple = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
    return simple or (f"{{{least},}}" if most is None else f"{{{least},{most}}}")
