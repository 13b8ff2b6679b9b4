"""JSON schemas, looked over before llguidance sees them: it holds them to no meta-schema, and some it cannot survive."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from jsonschema import Draft7Validator, Draft201909Validator, Draft202012Validator

from ananke_client.errors import ErrorCode
from ananke_client.report import Diagnostic
from ananke_server.constraints.refusal import Refusal, pointer_of, refuse

DRAFTS: dict[str, Any] = {
    "http://json-schema.org/draft-07/schema": Draft7Validator,
    "https://json-schema.org/draft/2019-09/schema": Draft201909Validator,
    "https://json-schema.org/draft/2020-12/schema": Draft202012Validator,
}

MAX_FAULTS = 32
MAX_ARRAY_BOUND = 10_000
"""llguidance unrolls array bounds: at 10 million it takes seconds, at a billion it aborts the process."""
MAX_MEMBERS = 2_000
"""Members of one object or array of a schema: with 5,000 properties llguidance takes seconds, with 30,000 names it crashes."""
MAX_ENUM = 10_000
MAX_INTEGER = 2**53
"""llguidance computes with doubles, which round larger integers."""

_ARRAY_BOUNDS = ("minItems", "maxItems", "minContains", "maxContains")


def validator_of(schema: dict[str, Any] | bool) -> Any:
    """The class of jsonschema for a schema's draft; 2020-12 where it names none."""
    if isinstance(schema, bool) or "$schema" not in schema:
        return Draft202012Validator
    return DRAFTS[str(schema["$schema"]).removesuffix("#")]


def check_schema(schema: dict[str, Any] | bool) -> None:
    """Hold a schema against the limits and against its draft's meta-schema.

    Raises:
        Refusal: with every fault found, up to ``MAX_FAULTS``, at its JSON pointer.
    """
    if schema is False:
        raise refuse(ErrorCode.INVALID_CONSTRAINT, "no output can satisfy the constraint", pointer="/schema")
    if isinstance(schema, bool):
        return
    if faults := list(islice(_over_limits(schema), MAX_FAULTS)):
        raise Refusal(faults)
    draft = schema.get("$schema")
    if isinstance(draft, str) and draft.removesuffix("#") not in DRAFTS:
        hint = f"known: {', '.join(DRAFTS)}"
        raise refuse(ErrorCode.UNSUPPORTED_CONSTRAINT, f"the draft {draft!r} is not known", pointer="/schema/$schema", hint=hint)
    if "x-guidance" in schema:
        message = "'x-guidance' is not taken: options stand beside the constraint's 'type'"
        raise refuse(ErrorCode.INVALID_CONSTRAINT, message, pointer="/schema/x-guidance", hint="remove it")
    if faults := list(dict.fromkeys(islice(_faults(schema), MAX_FAULTS))):
        raise Refusal(faults)


def _faults(schema: dict[str, Any]) -> Iterator[Diagnostic]:
    validator = validator_of(schema) if isinstance(schema.get("$schema", ""), str) else Draft202012Validator
    for fault in validator(validator.META_SCHEMA).iter_errors(schema):
        pointer = pointer_of(["schema", *fault.absolute_path])
        yield Diagnostic(code=ErrorCode.INVALID_CONSTRAINT, message=fault.message[:300], pointer=pointer)


def _over_limits(schema: dict[str, Any]) -> Iterator[Diagnostic]:
    pending: list[tuple[list[object], Any]] = [(["schema"], schema)]
    while pending:
        path, value = pending.pop()
        yield from _over_limit(path, value)
        if isinstance(value, dict):
            pending.extend(([*path, key], child) for key, child in value.items())
        elif isinstance(value, list):
            pending.extend(([*path, index], child) for index, child in enumerate(value))


def _over_limit(path: list[object], value: Any) -> Iterator[Diagnostic]:
    too_large, unsupported = ErrorCode.CONSTRAINT_TOO_LARGE, ErrorCode.UNSUPPORTED_CONSTRAINT
    if isinstance(value, dict | list):
        most = MAX_ENUM if path[-1] == "enum" else MAX_MEMBERS
        if len(value) > most:
            yield Diagnostic(code=too_large, message=f"{len(value):,} members; at most {most:,} are taken", pointer=pointer_of(path))
    if isinstance(value, dict):
        for keyword in _ARRAY_BOUNDS:
            bound = value.get(keyword)
            if isinstance(bound, int | float) and bound > MAX_ARRAY_BOUND:
                message = f"{keyword} is {bound}; at most {MAX_ARRAY_BOUND:,} can be enforced"
                yield Diagnostic(code=too_large, message=message, pointer=pointer_of([*path, keyword]))
        if "prefixItems" in value and "additionalItems" in value:
            # llguidance would drop prefixItems for it.
            message = "additionalItems beside prefixItems is a keyword of another draft"
            pointer = pointer_of([*path, "additionalItems"])
            yield Diagnostic(code=unsupported, message=message, pointer=pointer, hint="use 'items'")
    elif isinstance(value, int | float) and abs(value) > MAX_INTEGER:
        yield Diagnostic(code=too_large, message="numbers beyond 2**53 cannot be held exactly", pointer=pointer_of(path))
