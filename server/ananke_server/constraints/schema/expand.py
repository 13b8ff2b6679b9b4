"""Expansion: a node's keywords, for one type of value, taken apart into alternatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from ananke_server.constraints.schema import keywords
from ananke_server.constraints.schema.alternatives import (
    ALWAYS,
    NEVER,
    Alternative,
    Alternatives,
    Coverage,
    TooManyAlternatives,
    all_of,
    any_of,
    both,
    covering,
    one,
    tagged,
    uncovered,
    unsupported,
)
from ananke_server.constraints.schema.document import ANY, Document, Goal, Node, Obligation
from ananke_server.constraints.schema.literals import Items, Properties, Property, Required, SomeProperty, Space
from ananke_server.drafts import Draft

JsonType = Literal["null", "boolean", "number", "string", "array", "object"]
TYPES: tuple[JsonType, ...] = ("null", "boolean", "number", "string", "array", "object")

FEW = 8
_SORTING = frozenset(("type", "enum", "const"))
"""Keywords that rule a type of value out at once, which most subschemas do with five of the six."""

Disjoint = Callable[[Node, Node, JsonType], bool]
"""Whether no value of a type satisfies both nodes, as far as that can be told."""

Feasible = Callable[[Alternative, JsonType], bool]
"""Whether a value of a type fulfils an alternative, as far as that can be told."""

_Handler = Callable[["Expander", Node, Any, bool, JsonType], Alternatives]


class SelfReference(Exception):
    """A node's expansion needs that very expansion."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.pointer)
        self.node = node


@dataclass(slots=True)
class Expander:
    """Expands the nodes of one document. ``notes`` collects the keywords that only a rewriting made into a mask."""

    document: Document
    disjoint: Disjoint
    feasible: Feasible
    notes: dict[str, str] = field(default_factory=dict)
    _known: dict[tuple[Node, bool, JsonType, bool], Alternatives] = field(default_factory=dict)
    _open: set[tuple[Node, bool]] = field(default_factory=set)
    _tracking: bool = False

    def goal(self, goal: Goal, type_: JsonType) -> Alternatives:
        """What a goal demands of a value of a type."""
        obligations = sorted(goal, key=lambda obligation: (obligation.node.position, obligation.positive))
        return all_of(self.node(node, positive, type_) for node, positive in obligations)

    def node(self, node: Node, positive: bool, type_: JsonType) -> Alternatives:
        """What it takes to satisfy a node, or to violate it.

        Raises:
            Refusal: the node refers to nowhere.
            SelfReference: the node is being expanded already.
        """
        if isinstance(node.schema, bool):
            return ALWAYS if node.schema == positive else NEVER
        key = (node, positive, type_, self._tracking)
        if key not in self._known:
            if (node, positive) in self._open:
                raise SelfReference(node)
            self._open.add((node, positive))
            try:
                with self._tracked(self._tracking or _sees_evaluation(node)):
                    self._known[key] = tagged(self._node(node, positive, type_), Obligation(node, positive))
            finally:
                self._open.discard((node, positive))
        return self._known[key]

    def subgoal(self, node: Node, positive: bool = True) -> Goal:
        """The goal of satisfying, or violating, one node."""
        return self.document.goal(Obligation(node, positive))

    def note(self, node: Node, keyword: str, how: str) -> None:
        """Remember that a keyword is enforced in another form."""
        self.notes.setdefault(node.at(keyword), how)

    @property
    def tracking(self) -> bool:
        """Whether it matters which subschemas a value satisfies, beyond that it satisfies the whole."""
        return self._tracking

    def _node(self, node: Node, positive: bool, type_: JsonType) -> Alternatives:
        active = _active(node)
        if positive and any(keyword in _SORTING and not _HANDLERS[keyword](self, node, value, True, type_) for keyword, value in active):
            return NEVER
        parts = self._parts(node, positive, type_)
        try:
            result = self._conjunction(parts, type_) if positive else any_of(parts)
        except TooManyAlternatives:
            result = unsupported(node.pointer, "its keywords together have too many alternatives")
        return self._with_unevaluated(node, result, positive, type_)

    def _parts(self, node: Node, positive: bool, type_: JsonType) -> list[Alternatives]:
        """What each keyword demands, or its negation; the ``unevaluated`` ones are not among them."""
        return [part for keyword, value in _active(node) for part in self._keyword(node, keyword, value, positive, type_)]

    def _keyword(self, node: Node, keyword: str, value: Any, positive: bool, type_: JsonType) -> list[Alternatives]:
        """A keyword's demands; those of ``allOf`` each apart, so that what contradicts the whole node is found early."""
        try:
            if keyword == "allOf":
                members = [self.node(node.child("allOf", index), positive, type_) for index in range(len(value))]
                return members if positive else [any_of(members)]
            handler = _HANDLERS.get(keyword)
            return [] if handler is None else [handler(self, node, value, positive, type_)]
        except TooManyAlternatives:
            return [unsupported(node.at(keyword), "it has too many alternatives in this place")]
        except keywords.Unmaskable as fault:
            return [unsupported(fault.origin, fault.reason, fault.hint)]

    def _conjunction(self, parts: list[Alternatives], type_: JsonType) -> Alternatives:
        """The conjunction; while it has many alternatives, those at odds with the parts that have but one are left out."""
        certain = all_of(part for part in parts if len(part) == 1)
        result = ALWAYS
        for part in parts:
            result = both(result, part)
            if len(result) > FEW:
                result = [one for one in result if all(self.feasible(one & other, type_) for other in certain)]
        return result

    def _with_unevaluated(self, node: Node, rest: Alternatives, positive: bool, type_: JsonType) -> Alternatives:
        """``unevaluatedProperties`` and ``unevaluatedItems``, which depend on what the rest of the node has evaluated."""
        keyword = {"object": "unevaluatedProperties", "array": "unevaluatedItems"}.get(type_)
        if keyword is None or node.get(keyword) is None or self.document.draft < Draft.D2019:
            return rest
        self.note(node, keyword, "decided by which subschemas hold")
        satisfied = rest if positive else self._conjunction(self._parts(node, True, type_), type_)
        child = node.child(keyword)
        demanded = []
        for alternative in satisfied:
            demand = (self._properties_left if type_ == "object" else self._items_left)(node, child, alternative.coverage, positive)
            demanded.append(both([alternative], demand))
        if positive:
            return covering(any_of(demanded), Coverage(all_properties=type_ == "object", all_items=type_ == "array"))
        return any_of([rest, *demanded])

    def _properties_left(self, node: Node, child: Node, coverage: Coverage, positive: bool) -> Alternatives:
        if coverage.all_properties:
            return ALWAYS if positive else NEVER
        origin = node.at("unevaluatedProperties")
        space = Space(names=coverage.names, patterns=coverage.patterns, regexes=keywords.regexes(node, coverage.patterns))
        goal = self.subgoal(child, positive)
        return one(Properties(origin, space, goal)) if positive else one(SomeProperty(origin, space, goal))

    def _items_left(self, node: Node, child: Node, coverage: Coverage, positive: bool) -> Alternatives:
        if coverage.all_items:
            return ALWAYS if positive else NEVER
        if coverage.contains or not positive:
            return unsupported(node.at("unevaluatedItems"), "which items contains has evaluated depends on the value")
        return one(Items(node.at("unevaluatedItems"), coverage.prefix, self.subgoal(child)))

    @contextmanager
    def _tracked(self, tracking: bool) -> Iterator[None]:
        before, self._tracking = self._tracking, tracking
        try:
            yield
        finally:
            self._tracking = before


def _sees_evaluation(node: Node) -> bool:
    return node.get("unevaluatedProperties") is not None or node.get("unevaluatedItems") is not None


def _active(node: Node) -> list[tuple[str, Any]]:
    """The keywords of a node that count: before 2019-09 a reference has no siblings.

    ``properties`` comes first, so that its order is the one in which properties are written.
    """
    assert isinstance(node.schema, dict)
    if "$ref" in node.schema and node.document.reference_stands_alone:
        return [("$ref", node.schema["$ref"])]
    return sorted(node.schema.items(), key=lambda item: item[0] != "properties")


def _reference(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    return expander.node(expander.document.target(node, "$ref"), positive, type_)


def _dynamic_reference(keyword: str, anchor: str) -> _Handler:
    def handle(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
        document = expander.document
        if document.draft != (Draft.D2020 if keyword == "$dynamicRef" else Draft.D2019):
            return ALWAYS if positive else NEVER
        name = value.rpartition("#")[2] if keyword == "$dynamicRef" else True
        if document.anchors(anchor, name) > 1:
            return unsupported(node.at(keyword), f"several {anchor} could be meant")
        return expander.node(document.target(node, keyword), positive, type_)

    return handle


def _any_of(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    children = [node.child("anyOf", index) for index in range(len(value))]
    if not positive:
        return all_of(expander.node(child, False, type_) for child in children)
    if not expander.tracking:
        return any_of(expander.node(child, True, type_) for child in children)
    # Each branch holds or not: the ones that hold have evaluated what they name.
    cases = ALWAYS
    for child in children:
        cases = both(cases, any_of([expander.node(child, True, type_), expander.node(child, False, type_)]))
    holding = {Obligation(child, True) for child in children}
    return [case for case in cases if case.chosen & holding or any(child.schema is True for child in children)]


def _one_of(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    children = [node.child("oneOf", index) for index in range(len(value))]
    possible = [child for child in children if expander.node(child, True, type_)]
    if len(possible) > len(set(possible)):
        # "true" stands there twice: no value satisfies exactly one.
        return NEVER if positive else ALWAYS
    if len(possible) > 1:
        expander.note(node, "oneOf", "each branch without the others that it overlaps")
    if not positive:
        none = all_of(expander.node(child, False, type_) for child in children)
        pairs = [
            both(expander.node(first, True, type_), expander.node(second, True, type_))
            for index, first in enumerate(possible)
            for second in possible[index + 1 :]
            if not expander.disjoint(first, second, type_)
        ]
        return any_of([none, *pairs])
    return any_of(_alone(expander, child, possible, type_) for child in possible)


def _alone(expander: Expander, child: Node, others: list[Node], type_: JsonType) -> Alternatives:
    """What satisfies one branch and no other."""
    overlapping = [other for other in others if other is not child and not expander.disjoint(child, other, type_)]
    return all_of([expander.node(child, True, type_), *(expander.node(other, False, type_) for other in overlapping)])


def _not(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    expander.note(node, "not", "by the negations of its keywords")
    return uncovered(expander.node(node.child("not"), not positive, type_))


def _if(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    if expander.document.draft < Draft.D7:
        return ALWAYS if positive else NEVER
    condition = node.child("if")
    cases = []
    for keyword, holds in (("then", True), ("else", False)):
        case = expander.node(condition, holds, type_)
        if node.get(keyword) is not None:
            cases.append(both(case, expander.node(node.child(keyword), positive, type_)))
        elif positive:
            cases.append(case)
    if node.get("then") is None and node.get("else") is None and not expander.tracking:
        return ALWAYS if positive else NEVER
    expander.note(node, "if", "by its two cases")
    return any_of(cases)


def _dependencies(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    if type_ != "object":
        return ALWAYS if positive else NEVER
    return _depending(expander, node, "dependencies", value, positive)


def _dependent(keyword: str) -> _Handler:
    def handle(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
        if type_ != "object" or expander.document.draft < Draft.D2019:
            return ALWAYS if positive else NEVER
        return _depending(expander, node, keyword, value, positive)

    return handle


def _depending(expander: Expander, node: Node, keyword: str, value: dict[str, Any], positive: bool) -> Alternatives:
    origin = node.at(keyword)
    expander.note(node, keyword, "by the cases in which each name is present or absent")
    parts = []
    for name, dependency in value.items():
        present, absent = one(Required(origin, name)), one(keywords.absent(expander.document, origin, name))
        if isinstance(dependency, list):
            needs = [one(Required(origin, other)) for other in dependency]
            lacks = [one(keywords.absent(expander.document, origin, other)) for other in dependency]
        else:
            child = node.child(keyword, name)
            needs, lacks = [expander.node(child, True, "object")], [expander.node(child, False, "object")]
        if positive:
            # Where nothing else depends on the case, "absent or needed" is told apart no further.
            parts.append(any_of([absent, all_of([present, *needs])]))
        else:
            parts.append(both(present, any_of(lacks)))
    return all_of(parts) if positive else any_of(parts)


def _property_map(keyword: str) -> _Handler:
    def handle(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
        if type_ != "object":
            return ALWAYS if positive else NEVER
        origin = node.at(keyword)
        goals = {name: expander.subgoal(node.child(keyword, name), positive) for name in value}
        if keyword == "properties":
            if positive:
                return covering(one(*(Property(origin, *item) for item in goals.items())), Coverage(names=frozenset(value)))
            return any_of(one(Required(origin, name), Property(origin, name, goal)) for name, goal in goals.items())
        regexes = keywords.regexes(node, value)
        spaces = {pattern: Space(pattern=pattern, regexes=regexes) for pattern in value}
        if positive:
            matching = one(*(Properties(origin, spaces[pattern], goal) for pattern, goal in goals.items()))
            return covering(matching, Coverage(patterns=frozenset(value)))
        return any_of(one(SomeProperty(origin, spaces[pattern], goal)) for pattern, goal in goals.items())

    return handle


def _additional_properties(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    if type_ != "object":
        return ALWAYS if positive else NEVER
    patterns = node.get("patternProperties") or {}
    names = frozenset(node.get("properties") or {})
    space = Space(names=names, patterns=frozenset(patterns), regexes=keywords.regexes(node, patterns))
    origin, goal = node.at("additionalProperties"), expander.subgoal(node.child("additionalProperties"), positive)
    if not positive:
        return one(SomeProperty(origin, space, goal)) if not expander.document.is_false(goal) else NEVER
    demanded = ALWAYS if goal == ANY else one(Properties(origin, space, goal))
    return covering(demanded, Coverage(all_properties=True))


_HANDLERS: dict[str, _Handler] = {
    "$ref": _reference,
    "$dynamicRef": _dynamic_reference("$dynamicRef", "$dynamicAnchor"),
    "$recursiveRef": _dynamic_reference("$recursiveRef", "$recursiveAnchor"),
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
    "dependencies": _dependencies,
    "dependentRequired": _dependent("dependentRequired"),
    "dependentSchemas": _dependent("dependentSchemas"),
    "properties": _property_map("properties"),
    "patternProperties": _property_map("patternProperties"),
    "additionalProperties": _additional_properties,
    **keywords.HANDLERS,
}
