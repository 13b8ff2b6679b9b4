"""Preparation: a schema in the form that makes jsonschema-rs judge by the letter of the specification."""

from __future__ import annotations

from typing import Any

from ananke_server.judging.ecma import translated

_MAPS = frozenset({"properties", "$defs", "definitions", "dependentSchemas", "dependencies"})
_DATA = frozenset({"enum", "const", "default", "examples"})
# The library asserts them in drafts 6 and 7; as in the later drafts they are annotations here.
_CONTENT = frozenset({"contentEncoding", "contentMediaType", "contentSchema"})


def prepared(schema: Any) -> Any:
    """The schema with its patterns translated and without assertions about the content of strings; what is data in it is left alone.

    Raises:
        UntranslatableError: a pattern has no translation.
    """
    if isinstance(schema, list):
        return [prepared(member) for member in schema]
    if not isinstance(schema, dict):
        return schema
    return {keyword: _keyword(keyword, value) for keyword, value in schema.items() if keyword not in _CONTENT}


def _keyword(keyword: str, value: Any) -> Any:
    if keyword == "pattern" and isinstance(value, str):
        return translated(value)
    if keyword in _MAPS and isinstance(value, dict):
        return {name: prepared(member) for name, member in value.items()}
    if keyword == "patternProperties" and isinstance(value, dict):
        return _pattern_properties(value)
    return value if keyword in _DATA else prepared(value)


def _pattern_properties(properties: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for pattern, member in properties.items():
        key = translated(pattern)
        # Two patterns of one translation both hold.
        while key in result:
            key = f"(?:{key})"
        result[key] = prepared(member)
    return result
