"""Drafts of JSON Schema: which one a schema is written in."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any

Schema = dict[str, Any] | bool


class Draft(IntEnum):
    """The drafts that are compiled and verified, in their order."""

    D4 = 4
    D6 = 6
    D7 = 7
    D2019 = 2019
    D2020 = 2020


URIS = {
    "http://json-schema.org/draft-04/schema": Draft.D4,
    "http://json-schema.org/draft-06/schema": Draft.D6,
    "http://json-schema.org/draft-07/schema": Draft.D7,
    "https://json-schema.org/draft/2019-09/schema": Draft.D2019,
    "https://json-schema.org/draft/2020-12/schema": Draft.D2020,
}
"""The meta-schemas' URIs, without a fragment."""

_SINCE_2019 = ("prefixItems", "unevaluatedProperties", "unevaluatedItems", "dependentRequired", "dependentSchemas", "$dynamicRef")

CHILD = (
    *("additionalProperties", "additionalItems", "items", "contains", "propertyNames", "not", "if", "then", "else"),
    *("unevaluatedProperties", "unevaluatedItems"),
)
CHILDREN = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
CHILDREN_BY_NAME = ("properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions")


class UnknownDraft(ValueError):
    """``$schema`` names no draft that is known."""


def draft_of(schema: Schema) -> Draft:
    """The draft that ``$schema`` names. Without one: 2020-12, or the older draft that the schema's keywords have the form of.

    Raises:
        UnknownDraft: with what ``$schema`` names.
    """
    if isinstance(schema, dict) and "$schema" in schema:
        named = str(schema["$schema"])
        draft = URIS.get(named.rstrip("#").replace("https://json-schema.org/draft-0", "http://json-schema.org/draft-0"))
        if draft is None:
            raise UnknownDraft(named)
        return draft
    parts = [part for _, part in subschemas(schema)]
    if any(keyword in part for part in parts for keyword in _SINCE_2019):
        return Draft.D2020
    if any(isinstance(part.get(bound), bool) for part in parts for bound in ("exclusiveMinimum", "exclusiveMaximum")):
        return Draft.D4
    return Draft.D7 if any(isinstance(part.get("items"), list) for part in parts) else Draft.D2020


def subschemas(schema: Any) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Every subschema that is an object, with its path; references are not followed, values within ``const`` and the like not taken."""
    pending: list[tuple[tuple[str | int, ...], Any]] = [((), schema)]
    while pending:
        path, part = pending.pop()
        if not isinstance(part, dict):
            continue
        yield path, part
        for keyword, value in part.items():
            if keyword in CHILD and isinstance(value, dict):
                pending.append(((*path, keyword), value))
            elif keyword in CHILDREN and isinstance(value, list):
                pending.extend(((*path, keyword, index), child) for index, child in enumerate(value))
            elif keyword in CHILDREN_BY_NAME and isinstance(value, dict):
                pending.extend(((*path, keyword, name), child) for name, child in value.items())
