"""Objects: the literals of an alternative for objects, merged into parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from ananke_server.constraints.regex import Regex
from ananke_server.constraints.schema.document import Document, Goal
from ananke_server.constraints.schema.literals import (
    Judge,
    Literal,
    Names,
    Properties,
    Property,
    PropertyCount,
    Required,
    SomeProperty,
    of_kind,
)
from ananke_server.constraints.schema.parts import Dropped, NameClass, ObjectPart, Part, StringPart, ValuesPart, cases_of

if TYPE_CHECKING:
    from ananke_server.constraints.schema.expand import JsonType

MAX_PATTERNS = 4
"""Patterns of names that are combined in every way; of more, a name is taken to match one at most."""
MAX_COUNTED = 10_000
"""Properties times the bound of their number: each pair is a rule."""
MAX_WITNESSES = 16
"""Names that may stand for "some property", each a part of its own."""

_REPEATED = "a mask cannot tell whether names outside the schema repeat each other"



@dataclass(slots=True)
class ObjectMerger:
    """Merges the literals of one alternative; the fields are those of ``Merger``."""

    document: Document
    judge: Judge
    possible: Callable[[Goal], bool]
    parts_of: Callable[[Goal, JsonType], list[Part]]

    def merge(self, literals: tuple[Literal, ...]) -> Iterator[ObjectPart]:
        """The parts; none where the literals contradict each other."""
        somes = of_kind(literals, SomeProperty)
        plain = tuple(literal for literal in literals if not isinstance(literal, SomeProperty))
        explicit = self._explicit(literals)
        open_somes = [some for some in somes if not self._is_met(some, plain)]
        if not open_somes:
            yield from self._merge(plain, explicit, None, [])
            return
        ways = [self._ways(some, explicit) for some in open_somes]
        for choice in product(*ways) if len(open_somes) <= 2 else ():
            added = tuple(literal for literal in choice if not isinstance(literal, SomeProperty))
            witnesses = [literal for literal in choice if isinstance(literal, SomeProperty)]
            demands = plain + tuple(demand for way in added for demand in way)
            dropped = [Dropped(some.origin, "only one unnamed property can be demanded") for some in witnesses[1:]]
            yield from self._merge(demands, explicit, witnesses[0] if witnesses else None, dropped)
        if len(open_somes) > 2:
            dropped = [Dropped(some.origin, "too many ways to find the property that it demands") for some in open_somes]
            yield from self._merge(plain, explicit, None, dropped)

    def _explicit(self, literals: tuple[Literal, ...]) -> list[str]:
        """Every name that a literal mentions, in order: properties first, as ``properties`` has them."""
        names = dict.fromkeys(literal.name for literal in of_kind(literals, Property))
        names |= dict.fromkeys(literal.name for literal in of_kind(literals, Required))
        spaces = [literal.space for literal in literals if isinstance(literal, Properties | SomeProperty)]
        names |= dict.fromkeys(name for space in spaces for name in sorted(space.names))
        for literal in of_kind(literals, Names):
            names |= dict.fromkeys(self._finite_names(literal) or ())
        return list(names)

    def _finite_names(self, literal: Names) -> list[str] | None:
        parts = self.parts_of(literal.goal, "string") if literal.positive else [StringPart()]
        if all(isinstance(part, ValuesPart) for part in parts):
            return [value for part in parts if isinstance(part, ValuesPart) for value in part.values]
        return None

    def _is_met(self, some: SomeProperty, literals: tuple[Literal, ...]) -> bool:
        """Whether a required property is one that is demanded, whatever its value."""
        required = {literal.name for literal in of_kind(literals, Required)}
        return not some.goal and any(some.space.has(name) for name in required)

    def _ways(self, some: SomeProperty, explicit: list[str]) -> list[tuple[Literal, ...] | SomeProperty]:
        """The ways to have the property: one of the explicit names, or another name."""
        named: list[tuple[Literal, ...] | SomeProperty] = [
            (Required(some.origin, name), Property(some.origin, name, some.goal)) for name in explicit if some.space.has(name)
        ]
        return [*named[:MAX_WITNESSES], some]

    def _merge(
        self, literals: tuple[Literal, ...], explicit: list[str], witness: SomeProperty | None, dropped: list[Dropped]
    ) -> Iterator[ObjectPart]:
        required = {literal.name for literal in of_kind(literals, Required)}
        properties = self._goals(explicit, literals)
        possible = {name: self.possible(goal) for name, goal in properties.items()}
        if not all(possible[name] for name in required):
            return
        counts = of_kind(literals, PropertyCount)
        most = min((count.most for count in counts if count.most is not None), default=None)
        part = ObjectPart(
            properties={name: goal for name, goal in properties.items() if possible[name]},
            required=required,
            taken=list(properties),
            others=[],
            least=max((count.least for count in counts), default=0),
            most=most,
            counted_at=next((count.origin for count in counts), ""),
            dropped=list(dropped),
        )
        part.names = self._names(literals, part)
        if part.names is None or part.names:
            part.others = [other for other in self._others(literals, part) if self.possible(other.goal)]
        if witness is not None and len(part.others) > 1:
            part.dropped.append(Dropped(witness.origin, "the property that it demands could be of several kinds"))
        elif witness is not None:
            part.witness = self._witness(witness, part)
            if part.witness is None:
                return
            self._count_with_witness(witness, part)
        if part.others and part.least > len(part.required) + 1:
            part.dropped.append(Dropped(part.counted_at, _REPEATED))
        bound = max(part.least, part.most or 0)
        if part.most is not None and part.most >= len(part.properties) and not part.others:
            part.most = None
        elif bound * len(part.properties) > MAX_COUNTED:
            part.dropped.append(Dropped(part.counted_at, "so many properties cannot be counted"))
            part.least, part.most = 0, None
        if self._is_possible(part):
            yield part

    def _goals(self, names: list[str], literals: tuple[Literal, ...]) -> dict[str, Goal]:
        """What each explicit property has to fulfil."""
        own: dict[str, list[Goal]] = {name: [] for name in names}
        for literal in of_kind(literals, Property):
            own[literal.name].append(literal.goal)
        shared, naming = of_kind(literals, Properties), [literal for literal in of_kind(literals, Names) if literal.positive]
        goals = {}
        for name, demanded in own.items():
            if all(literal.holds({name: None}, self.judge) for literal in naming):
                goals[name] = self._union(demanded + [literal.goal for literal in shared if literal.space.has(name)])
            else:
                goals[name] = frozenset({self.document.never()})
        return goals

    def _union(self, goals: list[Goal]) -> Goal:
        return self.document.goal(*(obligation for goal in goals for obligation in goal))

    def _names(self, literals: tuple[Literal, ...], part: ObjectPart) -> list[StringPart] | None:
        """What other names have to be: one of these; None where they are free."""
        allowed: list[StringPart] | None = None
        for literal in of_kind(literals, Names):
            if not literal.positive:
                part.dropped.append(Dropped(literal.origin, "a name that violates cannot be demanded"))
                continue
            strings = [each for each in self.parts_of(literal.goal, "string") if isinstance(each, StringPart)]
            part.dropped += [drop for each in strings for drop in each.dropped]
            # Finite names are explicit ones; what is left matches a pattern.
            allowed = strings if allowed is None else [_conjoined(one, another) for one in allowed for another in strings]
        return allowed

    def _others(self, literals: tuple[Literal, ...], part: ObjectPart) -> list[NameClass]:
        """The names beside the explicit ones, by what is demanded of their values."""
        rules = of_kind(literals, Properties)
        regexes = {pattern: regex for rule in rules for pattern, regex in rule.space.regexes.items()}
        used = dict.fromkeys(rule.space.pattern for rule in rules if rule.space.pattern is not None)
        used |= dict.fromkeys(pattern for rule in rules for pattern in sorted(rule.space.patterns))
        by_goal: dict[Goal, list[list[tuple[Regex, bool]]]] = {}
        if len(used) > MAX_PATTERNS:
            part.narrowed.append(Dropped(rules[0].origin, "a name that matches two of these patterns is not written"))
        for matching, case in cases_of(used, regexes, at_most_one=len(used) > MAX_PATTERNS):
            goal = self._union([rule.goal for rule in rules if _covers(rule, matching)])
            by_goal.setdefault(goal, []).append(case)
        if len(by_goal) == 1 and len(used) <= MAX_PATTERNS:
            return [NameClass([[]], goal) for goal in by_goal]
        return [NameClass(cases, goal) for goal, cases in by_goal.items()]

    def _witness(self, some: SomeProperty, part: ObjectPart) -> NameClass | None:
        """The class of other names that a demanded property can be of."""
        if not part.others:
            return None
        [other] = part.others
        space = some.space
        own = [(space.regexes[space.pattern], True)] if space.pattern is not None else []
        own += [(space.regexes[pattern], False) for pattern in sorted(space.patterns)]
        goal = self._union([other.goal, some.goal])
        return NameClass([case + own for case in other.cases], goal) if self.possible(goal) else None

    def _count_with_witness(self, some: SomeProperty, part: ObjectPart) -> None:
        """A witness that is like any other name is one more member; beside one that is not, members are not counted."""
        assert part.witness is not None
        [other] = part.others
        if part.witness == other:
            part.witness, part.least_others = None, 1
            return
        part.dropped.append(Dropped(some.origin, _REPEATED))
        if part.least > len(part.required) + 1 or part.most is not None:
            part.dropped.append(Dropped(part.counted_at, "properties are not counted where one of a kind is demanded"))
            part.least, part.most = 0, None

    def _is_possible(self, part: ObjectPart) -> bool:
        if part.most is not None and (part.least > part.most or len(part.required) + part.least_others > part.most):
            return False
        return bool(part.others) or len(part.properties) >= part.least


def _covers(rule: Properties, matching: frozenset[str]) -> bool:
    space = rule.space
    return space.pattern in matching if space.pattern is not None else not space.patterns & matching


def _conjoined(one: StringPart, another: StringPart) -> StringPart:
    mosts = [most for most in (one.most, another.most) if most is not None]
    return StringPart(
        max(one.least, another.least), min(mosts, default=None), one.patterns + another.patterns, one.excluded + another.excluded
    )
