"""Alternatives: what a schema demands of a value of one type, in disjunctive normal form.

Every keyword, and its negation, is a disjunction of conjunctions of literals. ``allOf``, ``anyOf``, ``oneOf``, ``not``,
``if``, references and dependencies only combine those of their subschemas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ananke_server.constraints.schema.document import Obligation
from ananke_server.constraints.schema.literals import Literal, Unsupported

MAX_ALTERNATIVES = 256
"""Alternatives of one goal for one type; each is a branch of the grammar that is alive beside the others."""


class TooManyAlternatives(Exception):
    """A combination of keywords has more alternatives than can be told apart in reasonable time."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which properties and items the satisfied subschemas of an alternative have evaluated (2020-12 core, section 11)."""

    names: frozenset[str] = frozenset()
    patterns: frozenset[str] = frozenset()
    all_properties: bool = False
    prefix: int = 0
    all_items: bool = False
    contains: bool = False
    """Whether ``contains`` has evaluated items that only a value tells."""

    def __or__(self, other: Coverage) -> Coverage:
        return Coverage(
            self.names | other.names,
            self.patterns | other.patterns,
            self.all_properties or other.all_properties,
            max(self.prefix, other.prefix),
            self.all_items or other.all_items,
            self.contains or other.contains,
        )


@dataclass(frozen=True, slots=True)
class Alternative:
    """A conjunction: all its literals hold. ``chosen`` are the nodes that it was built from, satisfied or violated."""

    literals: tuple[Literal, ...] = ()
    chosen: frozenset[Obligation] = frozenset()
    coverage: Coverage = Coverage()

    def __and__(self, other: Alternative) -> Alternative:
        if not other.literals and not other.chosen:
            return self if other.coverage == NONE_COVERED else replace(self, coverage=self.coverage | other.coverage)
        literals = tuple(dict.fromkeys(self.literals + other.literals))
        return Alternative(literals, self.chosen | other.chosen, self.coverage | other.coverage)

    @property
    def contradicts_itself(self) -> bool:
        """Whether a node is both to be satisfied and to be violated."""
        return any(positive and Obligation(node, False) in self.chosen for node, positive in self.chosen)


NONE_COVERED = Coverage()

Alternatives = list[Alternative]

ALWAYS: Alternatives = [Alternative()]
NEVER: Alternatives = []


def one(*literals: Literal) -> Alternatives:
    """The single alternative in which all these literals hold."""
    return [Alternative(literals)]


def unsupported(origin: str, reason: str, hint: str | None = None) -> Alternatives:
    """The single alternative in which a keyword demands nothing, since it cannot be taken apart.

    It counts as having evaluated everything, so that no ``unevaluated`` keyword demands too much for it.
    """
    return covering(one(Unsupported(origin, reason, hint)), Coverage(all_properties=True, all_items=True))


def uncovered(alternatives: Alternatives) -> Alternatives:
    """The same alternatives, having evaluated nothing."""
    return [replace(alternative, coverage=NONE_COVERED) for alternative in alternatives]


def both(first: Alternatives, second: Alternatives) -> Alternatives:
    """Conjunction.

    Raises:
        TooManyAlternatives: there would be more than ``MAX_ALTERNATIVES``.
    """
    if first is ALWAYS:
        return second
    if second is ALWAYS:
        return first
    if len(first) * len(second) > 16 * MAX_ALTERNATIVES:
        raise TooManyAlternatives
    return _distinct(one & another for one in first for another in second)


def all_of(parts: Iterable[Alternatives]) -> Alternatives:
    """Conjunction of any number."""
    result = ALWAYS
    for part in parts:
        result = both(result, part)
        if not result:
            break
    return result


def any_of(parts: Iterable[Alternatives]) -> Alternatives:
    """Disjunction of any number."""
    return _distinct(alternative for part in parts for alternative in part)


def tagged(alternatives: Alternatives, obligation: Obligation) -> Alternatives:
    """The same alternatives, each known to choose a node."""
    return [replace(alternative, chosen=alternative.chosen | {obligation}) for alternative in alternatives]


def covering(alternatives: Alternatives, coverage: Coverage) -> Alternatives:
    """The same alternatives, each having evaluated more properties or items."""
    return [replace(alternative, coverage=alternative.coverage | coverage) for alternative in alternatives]


def _distinct(alternatives: Iterable[Alternative]) -> Alternatives:
    """Without contradictions, repetitions, and alternatives that demand more than another one."""
    found: dict[frozenset[Literal], Alternative] = {}
    alternatives = list(alternatives)
    if len(alternatives) == 1 and not alternatives[0].contradicts_itself:
        return alternatives
    for alternative in alternatives:
        if not alternative.contradicts_itself:
            found.setdefault(frozenset(alternative.literals), alternative)
    kept = _weakest(found) if 1 < len(found) <= 2 * MAX_ALTERNATIVES else list(found.values())
    if len(kept) > MAX_ALTERNATIVES:
        raise TooManyAlternatives
    return kept


def _weakest(found: dict[frozenset[Literal], Alternative]) -> Alternatives:
    return [
        alternative
        for demands, alternative in found.items()
        if not any(weaker < demands and other.coverage == alternative.coverage for weaker, other in found.items())
    ]
