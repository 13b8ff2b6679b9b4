"""The canonical form of constraints: one text for all that differ in white space and in key order without a meaning.

Key order has a meaning where it shapes the output: properties are written in their schema's order, and so are the objects of
``const`` and ``enum``. It is kept there, and within keywords that are not known, which a ``$ref`` may point into. Schemas are
compiled from this form, so that a grammar depends on nothing else.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ananke_client.constraint import Constraint
from ananke_server.constraints.parse import strict_json
from ananke_server.constraints.refusal import Refusal
from ananke_server.drafts import CHILD, CHILDREN, CHILDREN_BY_NAME

_SCHEMA = frozenset((*CHILD, "contentSchema"))
_SORTED_BY_NAME = frozenset((*CHILDREN_BY_NAME, "dependentRequired")) - {"properties"}


def constraint_key(constraint: Constraint) -> str:
    """The constraint's digest, defaults filled in: what reports and provenance name it by."""
    return "sha256:" + _digest(canonical_text(constraint.model_dump(by_alias=True)))


def text_key(text: str) -> str | None:
    """A digest that a constraint's texts share if they differ in nothing but form, so that one's report and grammar are the other's.

    None for a text that is not JSON, or not JSON that a constraint may be: its faults lie in its form.
    """
    try:
        return _digest(canonical_text(strict_json(text)))
    except (Refusal, ValueError, RecursionError):
        return None


def canonical_text(constraint: Any) -> str:
    """The canonical form of a constraint's JSON value."""
    return json.dumps(_constraint(constraint), separators=(",", ":"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _constraint(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _field(name, value[name]) for name in sorted(value)}


def _field(name: str, value: Any) -> Any:
    # The flat form has a schema as its "json_schema".
    if name in ("schema", "json_schema"):
        return canonical_schema(value)
    if name == "constraints" and isinstance(value, list):
        return [_constraint(part) for part in value]
    if isinstance(value, list):
        return [_sorted_object(part) for part in value]
    return _sorted_object(value)


def _sorted_object(value: Any) -> Any:
    return {name: value[name] for name in sorted(value)} if isinstance(value, dict) else value


def canonical_schema(schema: Any) -> Any:
    """A schema with its keys in order, but for those whose order has a meaning."""
    if not isinstance(schema, dict):
        return schema
    return {name: _keyword(name, schema[name]) for name in sorted(schema)}


def _keyword(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [canonical_schema(part) for part in value] if name in CHILDREN else value
    if not isinstance(value, dict):
        return value
    if name in _SCHEMA:
        return canonical_schema(value)
    if name in _SORTED_BY_NAME:
        return {key: canonical_schema(value[key]) for key in sorted(value)}
    if name == "properties":
        return {key: canonical_schema(part) for key, part in value.items()}
    return value

