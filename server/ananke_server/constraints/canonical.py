"""The canonical form of constraints: one text for all that differ in white space and in key order without a meaning.

Key order has a meaning where it shapes the output: properties are written in their schema's order, and so are the objects of
``const`` and ``enum``. It is kept there, and within keywords that are not known, which a ``$ref`` may point into. Schemas are
compiled from this form, so that a grammar depends on nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from ananke_client.constraint import Constraint
from ananke_server.repeats import repeated_key

_SCHEMA = frozenset(
    (
        *("additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then"),
        *("unevaluatedItems", "unevaluatedProperties"),
    )
)
_SCHEMAS = frozenset(("allOf", "anyOf", "items", "oneOf", "prefixItems"))
_SCHEMA_OF_NAME = frozenset(("$defs", "definitions", "dependencies", "dependentRequired", "dependentSchemas", "patternProperties"))
_SCHEMA_OF_NAME_IN_ORDER = frozenset(("properties",))


def constraint_key(constraint: Constraint) -> str:
    """The constraint's digest, defaults filled in: what reports and provenance name it by."""
    return "sha256:" + _digest(canonical_text(constraint.model_dump(by_alias=True)))


def text_key(text: str) -> str | None:
    """A digest that a constraint's texts share if they differ in nothing but form, so that one's report and grammar are the other's.

    None for a text that is not JSON, or not JSON that a constraint may be: its faults lie in its form.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)
        return _digest(canonical_text(value))
    except (ValueError, RecursionError):
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
        return [canonical_schema(part) for part in value] if name in _SCHEMAS else value
    if not isinstance(value, dict):
        return value
    if name in _SCHEMA:
        return canonical_schema(value)
    if name in _SCHEMA_OF_NAME:
        return {key: canonical_schema(value[key]) for key in sorted(value)}
    if name in _SCHEMA_OF_NAME_IN_ORDER:
        return {key: canonical_schema(part) for key, part in value.items()}
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if repeated_key(pairs) is not None:
        raise ValueError("a key is repeated")
    return dict(pairs)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
