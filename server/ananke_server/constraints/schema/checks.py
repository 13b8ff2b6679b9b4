"""Checks of a schema's text: its size, its meta-schema, what contradicts itself, and what is surely not meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

from ananke_client.errors import ErrorCode
from ananke_client.report import Diagnostic
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.metaschema import metaschema_faults
from ananke_server.constraints.refusal import MAX_FAULTS, Refusal, pointer_of, refuse
from ananke_server.constraints.schema import formats
from ananke_server.constraints.schema.build import Definitions
from ananke_server.constraints.schema.document import Document, known_draft
from ananke_server.constraints.schema.keywords import type_of
from ananke_server.constraints.schema.parts import ValuesPart
from ananke_server.drafts import CHILD, CHILDREN, CHILDREN_BY_NAME, Draft, Schema, subschemas

MAX_DIGITS = 400
MAX_LENGTH = 2**31 - 1
"""The largest ``minLength`` or ``maxLength``; llguidance counts repetitions in 32 bits."""

_ARRAY_BOUNDS = ("minItems", "maxItems", "minContains", "maxContains", "minProperties", "maxProperties")

_ANNOTATIONS = frozenset(
    (
        *("$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary", "$comment", "$ref", "$dynamicRef"),
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$recursiveRef"),
        *("contentEncoding", "contentMediaType", "contentSchema", "format"),
    )
)
_ASSERTIONS = frozenset(
    (
        *("type", "enum", "const", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        *("minLength", "maxLength", "pattern", "uniqueItems", "required", "dependentRequired", *_ARRAY_BOUNDS),
        *(*CHILD, *CHILDREN, *CHILDREN_BY_NAME),
    )
)
_SINCE = {
    **dict.fromkeys(("const", "contains", "propertyNames"), Draft.D6),
    **dict.fromkeys(("if", "then", "else"), Draft.D7),
    **dict.fromkeys(("dependentRequired", "dependentSchemas", "unevaluatedProperties", "unevaluatedItems"), Draft.D2019),
    **dict.fromkeys(("minContains", "maxContains"), Draft.D2019),
    **dict.fromkeys(("prefixItems", "$dynamicRef"), Draft.D2020),
}
_UNTIL = {"additionalItems": Draft.D2019, "$recursiveRef": Draft.D2019}


def check_schema(schema: Schema, limits: Limits) -> None:
    """Hold a schema against the limits and against its draft's meta-schema.

    Raises:
        Refusal: with every fault found, up to ``MAX_FAULTS``, at its JSON pointer.
    """
    if isinstance(schema, bool):
        return
    if faults := list(islice(_over_limits(schema, limits), MAX_FAULTS)):
        raise Refusal(faults)
    if "x-guidance" in schema:
        message = "'x-guidance' is not taken: options stand beside the constraint's 'type'"
        raise refuse(ErrorCode.INVALID_CONSTRAINT, message, pointer="/schema/x-guidance", hint="remove it")
    if not isinstance(schema.get("$schema", ""), str):
        raise refuse(ErrorCode.INVALID_CONSTRAINT, "$schema is a URI", pointer="/schema/$schema")
    known_draft(schema)
    faults = [
        Diagnostic(code=ErrorCode.INVALID_CONSTRAINT, message=message[:300], pointer=pointer_of(("schema", *path)))
        for path, message in metaschema_faults(schema)
    ]
    if faults:
        raise Refusal(list(dict.fromkeys(faults)))


def contradictions(schema: Schema) -> list[Diagnostic]:
    """The subschemas that contradict themselves, where a single one does; for a schema that no value satisfies."""
    return [
        Diagnostic(code=ErrorCode.INVALID_CONSTRAINT, message=message, pointer=pointer)
        for path, part in islice(subschemas(schema), 10_000)
        for pointer, message in _contradictions(pointer_of(("schema", *path)), part)
    ][:MAX_FAULTS]


def warnings_of(document: Document, definitions: Definitions) -> list[Diagnostic]:
    """What is legal in a schema, but surely not meant, and what its grammar leaves out."""
    found = [Diagnostic(code="narrowed", message=one.reason, pointer=one.origin) for one in definitions.narrowed()]
    for path, part in subschemas(document.root):
        found.extend(_suspicions(pointer_of(("schema", *path)), part, document))
    only = definitions.parts.get(definitions.root, [])
    if len(only) == 1 and isinstance(only[0], ValuesPart) and len(only[0].values) == 1:
        found.append(Diagnostic(code="single_value", message="only one value satisfies the schema", pointer="/schema"))
    return list(dict.fromkeys(found))[:MAX_FAULTS]


def _over_limits(schema: dict[str, Any], limits: Limits) -> Iterator[Diagnostic]:
    pending: list[tuple[list[object], Any]] = [(["schema"], schema)]
    while pending:
        path, value = pending.pop()
        for pointer, message in _over_limit(path, value, limits):
            yield Diagnostic(code=ErrorCode.CONSTRAINT_TOO_LARGE, message=message, pointer=pointer_of(pointer))
        if isinstance(value, dict):
            pending.extend(([*path, key], child) for key, child in value.items())
        elif isinstance(value, list):
            pending.extend(([*path, index], child) for index, child in enumerate(value))


def _over_limit(path: list[object], value: Any, limits: Limits) -> Iterator[tuple[list[object], str]]:
    if isinstance(value, dict | list):
        most = limits.enum if path[-1] == "enum" else limits.members
        if len(value) > most:
            yield path, f"{len(value):,} members; at most {most:,} are taken"
    if isinstance(value, dict):
        for keyword in _ARRAY_BOUNDS:
            bound = value.get(keyword)
            if isinstance(bound, int | float) and bound > limits.array_bound:
                yield [*path, keyword], f"{keyword} is {bound}; at most {limits.array_bound:,} can be enforced"
        for keyword in ("minLength", "maxLength"):
            bound = value.get(keyword)
            if isinstance(bound, int | float) and bound > MAX_LENGTH:
                yield [*path, keyword], f"{keyword} is {bound}; at most {MAX_LENGTH:,} can be enforced"
    elif isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        yield path, f"a number of more than {MAX_DIGITS} digits"


def _contradictions(pointer: str, part: dict[str, Any]) -> Iterator[tuple[str, str]]:
    pairs = (("minimum", "maximum"), ("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"))
    for least, most in pairs:
        low, high = part.get(least), part.get(most)
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            yield f"{pointer}/{least}", f"{least} {low} is more than {most} {high}"
    types = part.get("type")
    names = [types] if isinstance(types, str) else types
    values = part.get("enum", [part["const"]] if "const" in part else None)
    if isinstance(names, list) and isinstance(values, list) and not any(_is_of(value, names) for value in values):
        keyword = "enum" if "enum" in part else "const"
        yield f"{pointer}/{keyword}", f"{keyword} has no value of type {' or '.join(map(str, names))}"
    if part.get("additionalProperties") is False and not part.get("patternProperties") and isinstance(part.get("required"), list):
        for index, name in enumerate(part["required"]):
            if name not in part.get("properties", {}):
                yield f"{pointer}/required/{index}", f"the property {name!r} is required, but additionalProperties does not allow it"


def _suspicions(pointer: str, part: dict[str, Any], document: Document) -> Iterator[Diagnostic]:
    for found, message in _contradictions(pointer, part):
        yield Diagnostic(code="contradiction", message=message, pointer=found, hint="no value satisfies this part of the schema")
    for keyword in part:
        at = pointer + pointer_of([keyword])
        if keyword not in _ASSERTIONS and keyword not in _ANNOTATIONS:
            hint = _near(keyword)
            yield Diagnostic(code="unknown_keyword", message=f"{keyword!r} is no keyword and is ignored", pointer=at, hint=hint)
        elif _SINCE.get(keyword, Draft.D4) > document.draft or _UNTIL.get(keyword, Draft.D2020) < document.draft:
            message = f"{keyword!r} is no keyword of this draft and is ignored"
            yield Diagnostic(code="unknown_keyword", message=message, pointer=at, hint="name the draft that has it in $schema")
    if "$ref" in part and document.reference_stands_alone and part.keys() & _ASSERTIONS:
        yield Diagnostic(code="ignored", message="before draft 2019-09 whatever stands beside $ref is ignored", pointer=f"{pointer}/$ref")
    named = part.get("format")
    if isinstance(named, str) and named not in formats.ASSERTED:
        yield Diagnostic(code="annotation", message=f"the format {named[:80]!r} is not asserted", pointer=f"{pointer}/format")


@lru_cache(maxsize=4096)
def _near(keyword: str) -> str | None:
    close = difflib.get_close_matches(keyword, _ASSERTIONS, n=1)
    return f"did you mean {close[0]}?" if close else None


def _is_of(value: Any, names: list[str]) -> bool:
    type_ = type_of(value)
    return type_ in names or (type_ == "number" and "integer" in names and value == int(value))
