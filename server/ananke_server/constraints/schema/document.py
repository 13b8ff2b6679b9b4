"""Documents: a JSON schema with its draft, its subschemas as nodes, and its references resolved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jsonschema_specifications import REGISTRY as META_SCHEMAS
from referencing import Resource, Specification
from referencing.exceptions import PointerToNowhere, Unresolvable
from referencing.jsonschema import DRAFT4, DRAFT6, DRAFT7, DRAFT201909, DRAFT202012

from ananke_client.errors import ErrorCode
from ananke_server.constraints.refusal import Refusal, pointer_of, refuse
from ananke_server.drafts import URIS, Draft, Schema, UnknownDraft, draft_of


def _with_mixed_dependencies(specification: Specification[Any]) -> Specification[Any]:
    """The same draft; ``referencing`` takes all of ``dependencies`` for schemas where the first one is."""

    def subresources(contents: Any) -> Iterator[Any]:
        own = contents.get("dependencies") if isinstance(contents, dict) else None
        rest = {key: value for key, value in contents.items() if key != "dependencies"} if own is not None else contents
        yield from specification.subresources_of(rest)
        if isinstance(own, dict):
            yield from (value for value in own.values() if isinstance(value, dict | bool))

    # The type checker does not see the fields of an attrs class that is defined through ``referencing``'s own decorator.
    make: Any = Specification
    made: Specification[Any] = make(
        name=specification.name,
        id_of=specification.id_of,
        subresources_of=subresources,
        maybe_in_subresource=specification.maybe_in_subresource,
        anchors_in=lambda _, contents: specification.anchors_in(contents),
    )
    return made


_SPECIFICATIONS: dict[Draft, Specification[Any]] = {
    Draft.D4: _with_mixed_dependencies(DRAFT4),
    Draft.D6: _with_mixed_dependencies(DRAFT6),
    Draft.D7: _with_mixed_dependencies(DRAFT7),
    Draft.D2019: _with_mixed_dependencies(DRAFT201909),
    Draft.D2020: DRAFT202012,
}

def known_draft(schema: Schema) -> Draft:
    """The draft of a schema, or the refusal of one that names another.

    Raises:
        Refusal: the draft is not known.
    """
    try:
        return draft_of(schema)
    except UnknownDraft as fault:
        message, hint = f"the draft {str(fault)[:200]!r} is not known", f"known: {', '.join(URIS)}"
        raise refuse(ErrorCode.UNSUPPORTED_CONSTRAINT, message, pointer="/schema/$schema", hint=hint) from None


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            yield part
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A subschema at its place. One object for each place, so that it is compared by identity."""

    schema: Schema
    pointer: str
    """JSON pointer into the constraint, or the URI of a meta-schema's part."""
    position: int
    """Where it stands in the document, in the order of the text; references are met in this order."""
    document: Document
    resolver: Any

    def child(self, *path: str | int) -> Node:
        """The subschema under a path of keys and indices."""
        schema: Any = self.schema
        for part in path:
            schema = schema[part]
        return self.document.node(schema, self.pointer + pointer_of(path), self.resolver)

    def made(self, schema: Schema, origin: str) -> Node:
        """A node that the document does not have, in place of the keyword at ``origin``."""
        return self.document.node(schema, origin, self.resolver)

    def get(self, keyword: str) -> Any:
        """A keyword's value, or None."""
        return self.schema.get(keyword) if isinstance(self.schema, dict) else None

    def at(self, keyword: str) -> str:
        """JSON pointer of one of the node's keywords."""
        return self.pointer + pointer_of([keyword])


class Obligation(NamedTuple):
    """A node that a value has to satisfy, or, if not ``positive``, to violate."""

    node: Node
    positive: bool


Goal = frozenset[Obligation]
"""What a value has to fulfil: all of these obligations. The empty goal admits every value."""

ANY: Goal = frozenset()


@dataclass(slots=True)
class Document:
    """A schema, and everything that is reachable from it."""

    root: Schema
    draft: Draft
    reference_stands_alone: bool
    """Whether a reference's siblings are ignored, as before 2019-09 in a schema that names its draft."""
    _registry: Any = None
    _places: dict[int, tuple[str, int]] = field(default_factory=dict)
    _nodes: dict[int, Node] = field(default_factory=dict)
    _booleans: dict[bool, Node] = field(default_factory=dict)

    @classmethod
    def of(cls, schema: Schema) -> Document:
        """The document of a schema whose draft is known.

        Raises:
            Refusal: the draft is not known.
        """
        draft = known_draft(schema)
        document = cls(schema, draft, isinstance(schema, dict) and "$schema" in schema and draft < Draft.D2019)
        document._places = {id(part): (pointer, position) for position, (pointer, part) in enumerate(_places(schema))}
        return document

    def node(self, schema: Schema, pointer: str, resolver: Any) -> Node:
        """The node of a subschema."""
        if isinstance(schema, bool):
            return self._booleans.setdefault(schema, Node(schema, pointer, 0, self, resolver))
        known = self._nodes.get(id(schema))
        if known is None:
            if "$id" in schema or "id" in schema:
                resolver = self._inside(schema, resolver)
            place, position = self._places.get(id(schema), (pointer, len(self._places) + len(self._nodes)))
            known = self._nodes[id(schema)] = Node(schema, place, position, self, resolver)
        return known

    def root_node(self) -> Node:
        """The node of the whole schema.

        Raises:
            Refusal: an identifier in it is no URI.
        """
        resource: Resource[Any] = _SPECIFICATIONS[self.draft].create_resource(self.root)
        base = _identifier(resource)
        try:
            self._registry = META_SCHEMAS.with_resource(base, resource).crawl()
            return self.node(self.root, "/schema", self._registry.resolver(base))
        except (ValueError, TypeError, AttributeError) as fault:
            message = f"an identifier of the schema is no URI: {fault}"
            raise refuse(ErrorCode.INVALID_CONSTRAINT, message, pointer="/schema") from fault

    def target(self, node: Node, keyword: str) -> Node:
        """The node that a reference leads to.

        Raises:
            Refusal: it leads nowhere, or out of the document.
        """
        reference = node.get(keyword)
        try:
            found = node.resolver.lookup(reference)
        except (Unresolvable, PointerToNowhere, ValueError, KeyError, TypeError, AttributeError) as fault:
            remote = "://" in str(reference)
            code = ErrorCode.UNSUPPORTED_CONSTRAINT if remote else ErrorCode.INVALID_CONSTRAINT
            hint = "copy the schema under $defs and refer to it there" if remote else "name a place of this document, like #/$defs/name"
            raise refuse(code, f"{keyword} {str(reference)[:200]!r} leads nowhere", pointer=node.at(keyword), hint=hint) from fault
        if not isinstance(found.contents, dict | bool):
            message = f"{keyword} {str(reference)[:200]!r} leads to what is no schema"
            raise refuse(ErrorCode.INVALID_CONSTRAINT, message, pointer=node.at(keyword))
        return self.node(found.contents, str(reference), found.resolver)

    def never(self) -> Obligation:
        """The obligation that no value meets."""
        return Obligation(self.node(False, "", None), True)

    def goal(self, *obligations: Obligation) -> Goal:
        """A goal in its simplest form: trivial obligations dropped, plain references followed."""
        kept: set[Obligation] = set()
        for obligation in obligations:
            node = self._dereferenced(obligation.node)
            if isinstance(node.schema, bool):
                if node.schema != obligation.positive:
                    return frozenset({self.never()})
                continue
            if Obligation(node, not obligation.positive) in kept:
                return frozenset({self.never()})
            kept.add(Obligation(node, obligation.positive))
        return frozenset(kept)

    def is_false(self, goal: Goal) -> bool:
        """Whether a goal is the one that nothing fulfils."""
        return any(node.schema is False for node, _ in goal)

    def anchors(self, keyword: str, name: object) -> int:
        """How many schemas of the document carry a dynamic or recursive anchor of this name."""
        return sum(1 for part in _dicts(self.root) if keyword in part and part[keyword] == name)

    def _dereferenced(self, node: Node) -> Node:
        seen: set[int] = set()
        while isinstance(node.schema, dict) and node.schema.keys() == {"$ref"} and id(node) not in seen:
            seen.add(id(node))
            try:
                node = self.target(node, "$ref")
            except Refusal:
                # Told when the node itself is expanded, so that the faults of others are told too.
                break
        return node

    def _inside(self, schema: dict[str, Any], resolver: Any) -> Any:
        resource: Resource[Any] = _SPECIFICATIONS[self.draft].create_resource(schema)
        try:
            return resolver.in_subresource(resource) if resource.id() is not None else resolver
        except (ValueError, TypeError, AttributeError):
            return resolver


def _identifier(resource: Resource[Any]) -> str:
    try:
        return resource.id() or ""
    except (ValueError, TypeError, AttributeError):
        return ""


def _places(schema: Any) -> Iterator[tuple[str, Any]]:
    """Every object of the document with its JSON pointer, in the order of the text."""
    pending: list[tuple[str, Any]] = [("/schema", schema)]
    while pending:
        pointer, part = pending.pop()
        if isinstance(part, dict):
            yield pointer, part
            pending.extend((pointer + pointer_of([key]), part[key]) for key in reversed(part))
        elif isinstance(part, list):
            pending.extend((f"{pointer}/{index}", part[index]) for index in reversed(range(len(part))))
