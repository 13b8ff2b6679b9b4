"""Keywords whose demands need no other subschema's alternatives: each yields literals for a type of value, or for its negation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ananke_client.errors import ErrorCode
from ananke_server.constraints.refusal import refuse
from ananke_server.constraints.regex import Regex, RegexError, parse_regex
from ananke_server.constraints.schema import formats
from ananke_server.constraints.schema.alternatives import ALWAYS, NEVER, Alternatives, Coverage, all_of, any_of, covering, one, unsupported
from ananke_server.constraints.schema.document import Document, Node
from ananke_server.constraints.schema.literals import (
    Bound,
    Contains,
    Integral,
    Item,
    ItemCount,
    Items,
    Length,
    Literal,
    Multiple,
    Names,
    Pattern,
    Property,
    PropertyCount,
    Required,
    Unique,
    Values,
    canonical,
    decimal,
)
from ananke_server.drafts import Draft

if TYPE_CHECKING:
    from ananke_server.constraints.schema.expand import Expander, JsonType

Handler = Callable[["Expander", Node, Any, bool, "JsonType"], Alternatives]


def absent(document: Document, origin: str, name: str) -> Literal:
    """The demand that an object has no property of this name."""
    return Property(origin, name, document.goal(document.never()))


class Unmaskable(Exception):
    """A keyword's value cannot be made into a mask."""

    def __init__(self, origin: str, reason: str, hint: str | None) -> None:
        super().__init__(reason)
        self.origin, self.reason, self.hint = origin, reason, hint


def regexes(node: Node, patterns: Iterable[str]) -> dict[str, Regex]:
    """Patterns of property names, parsed, by their text.

    Raises:
        Refusal: one is no regular expression.
        Unmaskable: one is a regular expression that a mask cannot run.
    """
    return {pattern: regex_at(pattern, node.at("patternProperties")) for pattern in patterns}


@lru_cache(maxsize=1024)
def _parsed(pattern: str) -> Regex:
    regex = parse_regex(pattern, "ecma")
    regex.quoted_search()
    return regex


def regex_at(pattern: str, origin: str) -> Regex:
    """A pattern of a schema, parsed as ECMA-262 has it.

    Raises:
        Refusal: it is no regular expression.
        Unmaskable: it is one that a mask cannot run.
    """
    try:
        return _parsed(pattern)
    except RegexError as fault:
        message = f"pattern {pattern[:100]!r}: {fault.message}"
        if fault.unsupported or fault.too_large:
            raise Unmaskable(origin, message, fault.hint) from None
        raise refuse(ErrorCode.INVALID_CONSTRAINT, message, pointer=origin, line=1, column=fault.offset + 1, hint=fault.hint) from None


def _type(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    names = [value] if isinstance(value, str) else value
    if type_ in names:
        return ALWAYS if positive else NEVER
    if type_ == "number" and "integer" in names:
        return one(Integral(node.at("type"), positive))
    return NEVER if positive else ALWAYS


def _values(keyword: str) -> Handler:
    def handle(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
        if keyword == "const" and expander.document.draft < Draft.D6:
            return ALWAYS if positive else NEVER
        members = [member for member in (value if keyword == "enum" else [value]) if type_of(member) == type_]
        if not members:
            return NEVER if positive else ALWAYS
        if not positive and type_ in ("array", "object"):
            expander.note(node, keyword, "by the ways to differ from it")
            others = [node.made(_schema_of(member, expander.document.draft), node.at(keyword)) for member in members]
            return all_of(expander.node(other, False, type_) for other in others)
        return one(Values(node.at(keyword), frozenset(map(canonical, members)), tuple(members), positive))

    return handle


def _schema_of(value: list[Any] | dict[str, Any], draft: Draft) -> dict[str, Any]:
    """The schema that an array or object alone satisfies, without naming it whole."""
    if isinstance(value, dict):
        properties = {name: {"enum": [member]} for name, member in value.items()}
        return {"properties": properties, "required": list(value), "additionalProperties": False}
    prefix = "prefixItems" if draft >= Draft.D2020 else "items"
    items = {prefix: [{"enum": [item]} for item in value]} if value else {}
    return items | {"minItems": len(value), "maxItems": len(value)}


def type_of(value: Any) -> JsonType:
    """The type of a JSON value; integers are numbers."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _bound(keyword: str, *, lower: bool, exclusive: bool) -> Handler:
    flag = "exclusiveMinimum" if lower else "exclusiveMaximum"

    def handle(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
        if type_ != "number" or isinstance(value, bool):
            return ALWAYS if positive else NEVER
        # Draft 4 has a boolean beside the bound.
        is_exclusive = exclusive or node.get(flag) is True
        if positive:
            return one(Bound(node.at(keyword), decimal(value), lower, is_exclusive))
        return one(Bound(node.at(keyword), decimal(value), not lower, not is_exclusive))

    return handle


def _multiple_of(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    if type_ != "number":
        return ALWAYS if positive else NEVER
    return one(Multiple(node.at("multipleOf"), abs(decimal(value)), positive))


def _at_least(keyword: str, type_name: JsonType, literal: Any) -> Handler:
    def handle(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
        if type_ != type_name:
            return ALWAYS if positive else NEVER
        if positive:
            return ALWAYS if value <= 0 else one(literal(node.at(keyword), least=int(value)))
        return NEVER if value <= 0 else one(literal(node.at(keyword), most=int(value) - 1))

    return handle


def _at_most(keyword: str, type_name: JsonType, literal: Any) -> Handler:
    def handle(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
        if type_ != type_name:
            return ALWAYS if positive else NEVER
        return one(literal(node.at(keyword), most=int(value)) if positive else literal(node.at(keyword), least=int(value) + 1))

    return handle


def _pattern(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    if type_ != "string":
        return ALWAYS if positive else NEVER
    return one(Pattern(node.at("pattern"), value, regex_at(value, node.at("pattern")), positive))


def _format(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    asserted = formats.ASSERTED.get(value)
    if type_ != "string" or asserted is None:
        return ALWAYS if positive else NEVER
    origin = node.at("format")
    if not positive and not asserted.whole:
        return unsupported(origin, f"not every string of the format {value} is written, so its opposite cannot be told")
    demands: list[Literal] = [Pattern(origin, pattern, _parsed(pattern), positive, asserted.whole) for pattern in asserted.patterns]
    if asserted.most is not None:
        demands.append(Length(origin, most=asserted.most) if positive else Length(origin, least=asserted.most + 1))
    return one(*demands) if positive else any_of(one(demand) for demand in demands)


def _items(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    if type_ != "array":
        return ALWAYS if positive else NEVER
    if isinstance(value, list):
        return _prefix(expander, node, "items", len(value), positive)
    start = len(node.get("prefixItems") or ()) if expander.document.draft >= Draft.D2020 else 0
    return _rest(expander, node, "items", start, positive)


def _additional_items(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    first = node.get("items")
    if type_ != "array" or not isinstance(first, list) or expander.document.draft >= Draft.D2020:
        return ALWAYS if positive else NEVER
    return _rest(expander, node, "additionalItems", len(first), positive)


def _prefix_items(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    if type_ != "array" or expander.document.draft < Draft.D2020:
        return ALWAYS if positive else NEVER
    return _prefix(expander, node, "prefixItems", len(value), positive)


def _prefix(expander: Expander, node: Node, keyword: str, count: int, positive: bool) -> Alternatives:
    origin = node.at(keyword)
    goals = [expander.subgoal(node.child(keyword, index), positive) for index in range(count)]
    if positive:
        return covering(one(*(Item(origin, index, goal) for index, goal in enumerate(goals))), Coverage(prefix=count))
    return any_of(one(ItemCount(origin, least=index + 1), Item(origin, index, goal)) for index, goal in enumerate(goals))


def _rest(expander: Expander, node: Node, keyword: str, start: int, positive: bool) -> Alternatives:
    goal = expander.subgoal(node.child(keyword), positive)
    if positive:
        return covering(one(Items(node.at(keyword), start, goal)), Coverage(all_items=True))
    if expander.document.is_false(goal):
        return NEVER
    if not goal:
        return one(ItemCount(node.at(keyword), least=start + 1))
    return one(Contains(node.at(keyword), start, goal))


def _contains(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    if type_ != "array" or expander.document.draft < Draft.D6:
        return ALWAYS if positive else NEVER
    counted = expander.document.draft >= Draft.D2019
    least = int(node.get("minContains") if counted and node.get("minContains") is not None else 1)
    most = int(node.get("maxContains")) if counted and node.get("maxContains") is not None else None
    origin, goal = node.at("contains"), expander.subgoal(node.child("contains"))
    expander.note(node, "contains", "by counting the items that it admits")
    if positive:
        coverage = Coverage(contains=expander.document.draft >= Draft.D2020)
        return covering(one(Contains(origin, 0, goal, least, most)) if least or most is not None else ALWAYS, coverage)
    too_few = one(Contains(origin, 0, goal, 0, least - 1)) if least else NEVER
    too_many = one(Contains(origin, 0, goal, most + 1)) if most is not None else NEVER
    return any_of([too_few, too_many])


def _unique_items(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    if type_ != "array" or not value:
        return ALWAYS if positive else NEVER
    return one(Unique(node.at("uniqueItems"), positive))


def _required(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    if type_ != "object" or not isinstance(value, list):
        return ALWAYS if positive else NEVER
    origin = node.at("required")
    if positive:
        return one(*(Required(origin, name) for name in value))
    return any_of(one(absent(expander.document, origin, name)) for name in value)


def _property_names(expander: Expander, node: Node, value: Any, positive: bool, type_: JsonType) -> Alternatives:
    if type_ != "object" or expander.document.draft < Draft.D6:
        return ALWAYS if positive else NEVER
    expander.note(node, "propertyNames", "by what it admits of each name")
    return one(Names(node.at("propertyNames"), expander.subgoal(node.child("propertyNames")), positive))


HANDLERS: dict[str, Handler] = {
    "type": _type,
    "enum": _values("enum"),
    "const": _values("const"),
    "minimum": _bound("minimum", lower=True, exclusive=False),
    "maximum": _bound("maximum", lower=False, exclusive=False),
    "exclusiveMinimum": _bound("exclusiveMinimum", lower=True, exclusive=True),
    "exclusiveMaximum": _bound("exclusiveMaximum", lower=False, exclusive=True),
    "multipleOf": _multiple_of,
    "minLength": _at_least("minLength", "string", Length),
    "maxLength": _at_most("maxLength", "string", Length),
    "pattern": _pattern,
    "format": _format,
    "items": _items,
    "additionalItems": _additional_items,
    "prefixItems": _prefix_items,
    "minItems": _at_least("minItems", "array", ItemCount),
    "maxItems": _at_most("maxItems", "array", ItemCount),
    "contains": _contains,
    "uniqueItems": _unique_items,
    "required": _required,
    "minProperties": _at_least("minProperties", "object", PropertyCount),
    "maxProperties": _at_most("maxProperties", "object", PropertyCount),
    "propertyNames": _property_names,
}
