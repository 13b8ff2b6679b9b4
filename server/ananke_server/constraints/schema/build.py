"""Building: from a document to the definitions of a grammar, one for each goal that can be reached and fulfilled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ananke_client.errors import ErrorCode
from ananke_client.report import Diagnostic
from ananke_server.constraints.refusal import MAX_FAULTS, Refusal, refuse
from ananke_server.constraints.schema.alternatives import Alternative, TooManyAlternatives, both
from ananke_server.constraints.schema.counting import Counting
from ananke_server.constraints.schema.document import ANY, Document, Goal, Node, Obligation
from ananke_server.constraints.schema.expand import TYPES, Expander, JsonType, SelfReference
from ananke_server.constraints.schema.keywords import type_of
from ananke_server.constraints.schema.merge import Merger
from ananke_server.constraints.schema.parts import ArrayPart, Dropped, NameClass, ObjectPart, Part, StringPart
from ananke_server.constraints.schema.strings import is_empty, is_empty_expression, name_expression

MAX_GOALS = 5_000
LOOK_AHEAD = 8
"""Levels of properties and items that are looked into to tell that a goal cannot be fulfilled."""


@dataclass(slots=True)
class Definitions:
    """The parts of every goal that some value fulfils, the root's first; without the root, nothing fulfils it."""

    root: Goal
    parts: dict[Goal, list[Part]]
    notes: dict[str, str]
    """JSON pointers of the keywords that are enforced in another form, and in which."""

    def dropped(self) -> list[Dropped]:
        """The demands that the grammar does not make, each once."""
        return list({drop.origin: drop for part in self._all() for drop in part.dropped}.values())

    def narrowed(self) -> list[Dropped]:
        """The demands whose grammar leaves out some of the values that they admit, each once."""
        return list({drop.origin: drop for part in self._all() for drop in part.narrowed}.values())

    def _all(self) -> Iterator[Part]:
        return (part for parts in self.parts.values() for part in parts)


def build(document: Document) -> Definitions:
    """Expand and merge everything that the root leads to, and keep what can be fulfilled.

    Raises:
        Refusal: a reference or a pattern is at fault, or there are too many goals.
    """
    builder = _Builder(document)
    root = document.goal(Obligation(document.root_node(), True))
    parts = builder.reachable(root)
    fulfilled = _fulfilled(parts)
    kept = {goal: [part for part in members if _is_fulfilled(part, fulfilled)] for goal, members in parts.items() if goal in fulfilled}
    return Definitions(root, _reachable_from(root, kept), builder.expander.notes)


@dataclass(slots=True)
class _Builder:
    document: Document
    expander: Expander = field(init=False)
    _merger: Merger = field(init=False)
    _parts: dict[tuple[Goal, JsonType], list[Part]] = field(default_factory=dict)
    _possible: dict[Goal, bool] = field(default_factory=dict)
    _disjoint: dict[tuple[Node, Node, JsonType], bool] = field(default_factory=dict)
    _depth: int = 0

    def __post_init__(self) -> None:
        self.expander = Expander(self.document, self.are_disjoint, self.is_feasible)
        self._merger = Merger(self.document, self.judge, self.is_possible, self.parts_of)

    def reachable(self, root: Goal) -> dict[Goal, list[Part]]:
        """The parts of the root and of every goal below it.

        Raises:
            Refusal: with the faults of all of them.
        """
        found: dict[Goal, list[Part]] = {}
        faults: list[Diagnostic] = []
        pending = [root]
        while pending:
            goal = pending.pop()
            if goal in found or goal == ANY:
                continue
            if len(found) >= MAX_GOALS:
                message = f"the schema comes down to more than {MAX_GOALS:,} combinations of subschemas"
                raise refuse(ErrorCode.CONSTRAINT_TOO_LARGE, message, pointer="/schema")
            found[goal] = []
            for type_ in TYPES:
                try:
                    found[goal] += self.parts_of(goal, type_)
                except Refusal as refusal:
                    faults += refusal.diagnostics
                except SelfReference as fault:
                    message = "the schema refers to itself without a property or an item in between"
                    faults.append(Diagnostic(code=ErrorCode.INVALID_CONSTRAINT, message=message, pointer=fault.node.pointer))
            pending.extend(child for part in found[goal] for child in goals_of(part))
        if faults:
            raise Refusal(list(dict.fromkeys(faults))[:MAX_FAULTS])
        return found

    def parts_of(self, goal: Goal, type_: JsonType) -> list[Part]:
        """The parts of a goal for one type of value."""
        key = (goal, type_)
        if key not in self._parts:
            try:
                alternatives = self.expander.goal(goal, type_)
            except TooManyAlternatives:
                pointer = min((node for node, _ in goal), key=lambda node: node.position).pointer
                message = "these subschemas together have too many alternatives"
                raise refuse(ErrorCode.CONSTRAINT_TOO_LARGE, message, pointer=pointer) from None
            self._parts[key] = [part for alternative in alternatives for part in self._merger.merge(alternative, type_)]
        return self._parts[key]

    def is_possible(self, goal: Goal) -> bool:
        """False where no value fulfils a goal, as far as ``LOOK_AHEAD`` levels tell."""
        if self.document.is_false(goal):
            return False
        if goal == ANY or goal in self._possible or self._depth >= LOOK_AHEAD:
            return self._possible.get(goal, True)
        self._possible[goal] = True
        self._depth += 1
        try:
            self._possible[goal] = any(self.parts_of(goal, type_) for type_ in TYPES)
        except (SelfReference, Refusal):
            # It is being expanded further up, or at fault, which is told where its own turn comes.
            del self._possible[goal]
            return True
        finally:
            self._depth -= 1
        return self._possible[goal]

    def are_disjoint(self, first: Node, second: Node, type_: JsonType) -> bool:
        """Whether no value of a type satisfies both nodes, as far as that can be told."""
        key = (first, second, type_)
        if key not in self._disjoint:
            self._disjoint[key] = False
            try:
                together = both(self.expander.node(first, True, type_), self.expander.node(second, True, type_))
                parts = (part for alternative in together for part in self._merger.merge(alternative, type_))
                self._disjoint[key] = all(isinstance(part, StringPart) and part.whole and is_empty(part) for part in parts)
            except TooManyAlternatives:
                return False
            except (SelfReference, Refusal):
                del self._disjoint[key]
                return False
        return self._disjoint[key]

    def is_feasible(self, alternative: Alternative, type_: JsonType) -> bool:
        """Whether a value of a type fulfils an alternative, as far as that can be told."""
        try:
            return bool(self._merger.merge(alternative, type_))
        except (SelfReference, Refusal):
            return True

    def judge(self, goal: Goal, value: Any) -> bool:
        """Whether a JSON value fulfils a goal."""
        alternatives = self.expander.goal(goal, type_of(value))
        return any(all(literal.holds(value, self.judge) for literal in alternative.literals) for alternative in alternatives)


def goals_of(part: Part) -> Iterator[Goal]:
    """The goals of a part's children."""
    if isinstance(part, ArrayPart):
        goals = [*part.prefix, part.rest]
        yield from goals
        if part.counter is not None:
            yield from (counted for goal in goals for counted in (part.counting(goal), part.discounting(goal)))
    elif isinstance(part, ObjectPart):
        yield from part.properties.values()
        yield from (other.goal for other in part.others)
        if part.witness is not None:
            yield part.witness.goal


def _fulfilled(parts: dict[Goal, list[Part]]) -> set[Goal]:
    """The goals that some finite value fulfils: the least fixpoint over what they need."""
    fulfilled = {ANY}
    growing = True
    while growing:
        new = {goal for goal, members in parts.items() if goal not in fulfilled and any(_is_fulfilled(part, fulfilled) for part in members)}
        fulfilled |= new
        growing = bool(new)
    return fulfilled


def _is_fulfilled(part: Part, fulfilled: set[Goal]) -> bool:
    match part:
        case StringPart():
            return not is_empty(part)
        case ArrayPart():
            if part.counter is not None and part.counter.least:
                goals = [part.counting(goal) for goal in (*part.prefix, part.rest)]
                if not any(goal in fulfilled for goal in goals):
                    return False
            if part.counter is not None:
                return Counting(part, part.counter, fulfilled.__contains__).is_alive((0, 0))
            demanded = part.prefix[: part.least] + ([part.rest] if part.least > len(part.prefix) else [])
            return all(goal in fulfilled for goal in demanded)
        case ObjectPart():
            if not all(part.properties[name] in fulfilled for name in part.required):
                return False
            if part.witness is not None and part.witness.goal not in fulfilled:
                return False
            named = sum(goal in fulfilled for goal in part.properties.values())
            if part.witness is not None and not _has_name(part, part.witness):
                return False
            if named >= part.least and not part.least_others:
                return True
            return any(other.goal in fulfilled and _has_name(part, other) for other in part.others)
    return True


def _has_name(part: ObjectPart, names: NameClass) -> bool:
    return not is_empty_expression(name_expression(names, part.names, part.taken))


def _reachable_from(root: Goal, parts: dict[Goal, list[Part]]) -> dict[Goal, list[Part]]:
    found: dict[Goal, list[Part]] = {}
    pending = [root]
    while pending:
        goal = pending.pop()
        if goal in parts and goal not in found:
            found[goal] = parts[goal]
            pending.extend(child for part in parts[goal] for child in goals_of(part))
    return found
