"""Parsing: a constraint's JSON text into its typed form, with every fault located."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from ananke_client.constraint import KINDS, Constraint, parse_constraint
from ananke_client.errors import ErrorCode
from ananke_client.report import Diagnostic
from ananke_server.constraints.flat import Flat, is_flat, read_flat
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.reading import Place, Reading, placed
from ananke_server.constraints.refusal import Refusal, pointer_of, refuse
from ananke_server.repeats import repeated_key

_DEFAULTS = Limits()


def parse(text: str, limits: Limits = _DEFAULTS) -> Constraint:
    """The constraint of a JSON text, typed or in the flat form.

    Raises:
        Refusal: the text is too large, no JSON, or no constraint.
    """
    return read(text, limits).constraint


def read(text: str, limits: Limits = _DEFAULTS) -> Reading:
    """The constraint of a JSON text, with warnings and the places of its parts. Raises as ``parse`` does."""
    value = load_json(text, limits)
    if not isinstance(value, dict):
        hint = 'like {"type": "regex", "pattern": "[a-z]+"}'
        raise refuse(ErrorCode.INVALID_CONSTRAINT, "a constraint is a JSON object", pointer="", hint=hint)
    if not is_flat(value):
        return Reading(_typed(value))
    flat = read_flat(value, lambda schema: load_json(schema, limits))
    typed, places = _joined(flat)
    try:
        return Reading(_typed(typed), tuple(flat.warnings), places)
    except Refusal as refusal:
        raise Refusal(placed(places, refusal.diagnostics)) from None


def _joined(flat: Flat) -> tuple[dict[str, Any], dict[str, Place]]:
    """All members of a flat object as one typed object, and the places of its parts."""
    if len(flat.members) == 1:
        return flat.members[0], flat.places[0]
    places = {"": Place("", inner=False)}
    for index, member in enumerate(flat.places):
        places |= {f"/constraints/{index}{pointer}": place for pointer, place in member.items()}
    return {"type": "composite", "mode": "all", "constraints": flat.members}, places


def load_json(text: str, limits: Limits = _DEFAULTS) -> Any:
    """The JSON value of a text that is within the limits.

    Raises:
        Refusal: it is not, with line and column.
    """
    size = len(text.encode("utf-8", errors="surrogatepass"))
    if size > limits.bytes:
        raise refuse(ErrorCode.CONSTRAINT_TOO_LARGE, f"the constraint has {size:,} bytes; at most {limits.bytes:,} are taken")
    try:
        value = strict_json(text)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as fault:
        message = f"the constraint is not JSON: {fault.msg}"
        raise refuse(ErrorCode.INVALID_CONSTRAINT, message, line=fault.lineno, column=fault.colno) from None
    except UnicodeEncodeError:
        raise refuse(ErrorCode.INVALID_CONSTRAINT, "the constraint has an unpaired surrogate, which no UTF-8 text can hold") from None
    except RecursionError:
        raise too_deep(limits) from None
    except ValueError as fault:
        raise refuse(ErrorCode.INVALID_CONSTRAINT, f"the constraint is not JSON: {fault}") from None
    if _depth(value, limits.nesting) > limits.nesting:
        raise too_deep(limits)
    return value


def strict_json(text: str) -> Any:
    """The JSON value of a text, of any size.

    Raises:
        ValueError, RecursionError: it is not JSON, or nests too deep for Python.
        Refusal: a key is repeated, or a number is none that JSON or a double has.
    """
    return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=unique_object)


def _typed(value: dict[str, Any]) -> Constraint:
    try:
        return parse_constraint(value)
    except ValidationError as fault:
        errors = fault.errors(include_url=False, include_input=False, include_context=False)
        raise Refusal(list(dict.fromkeys(_diagnostic(error, value) for error in errors))) from None
    except RecursionError:
        raise too_deep() from None


def _diagnostic(error: Any, value: dict[str, Any]) -> Diagnostic:
    path, kind, within = _located(error["loc"])
    message: str = error["msg"]
    hint = None
    match error["type"]:
        case "union_tag_invalid" | "union_tag_not_found" | "model_attributes_type":
            path, message = _unknown_type(path, value)
            hint = f"types: {', '.join(KINDS)}"
        case "extra_forbidden":
            message, hint = "unknown key", "remove it"
        case "value_error":
            message = message.removeprefix("Value error, ")
    if kind == "json_schema" and within[:1] == ["schema"] and len(within) > 1:
        # pydantic names the branch of the union: a schema is an object or a boolean.
        path, message = path[: len(path) - len(within) + 1], "a schema is a JSON object, true or false"
    return Diagnostic(code=ErrorCode.INVALID_CONSTRAINT, message=message, pointer=pointer_of(path), hint=hint)


def _located(location: Sequence[object]) -> tuple[list[object], object, list[object]]:
    """A place in the JSON object, the kind of the constraint that it is in, and the place within that one.

    pydantic's locations name the kind of each constraint on the way.
    """
    path: list[object] = []
    kind: object = None
    within: list[object] = []
    kind_follows = True
    for part in location:
        if kind_follows:
            kind, within, kind_follows = part, [], False
            continue
        path.append(part)
        within.append(part)
        kind_follows = kind == "composite" and len(within) == 2 and within[0] == "constraints"
    return path, kind, within


def _unknown_type(path: list[object], value: Any) -> tuple[list[object], str]:
    for part in path:
        value = value[part]
    if not isinstance(value, dict):
        return path, "a constraint is a JSON object"
    kind = value.get("type")
    return ([*path, "type"], f"unknown type {ascii(kind)[:80]}") if "type" in value else (path, "the constraint has no 'type'")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise refuse(ErrorCode.INVALID_CONSTRAINT, f"the number {text[:40]} is too large")
    return number


def unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object hook for ``json`` that refuses repeated keys, of which only one value could be enforced.

    Raises:
        Refusal: a key is repeated.
    """
    if (repeated := repeated_key(pairs)) is not None:
        raise refuse(ErrorCode.INVALID_CONSTRAINT, f"the key {ascii(repeated)[:80]} is repeated")
    return dict(pairs)


def _refuse_constant(name: str) -> None:
    raise refuse(ErrorCode.INVALID_CONSTRAINT, f"the constraint is not JSON: {name} is no JSON number")


def too_deep(limits: Limits = _DEFAULTS) -> Refusal:
    """The refusal of a constraint that nests too deep."""
    return refuse(ErrorCode.CONSTRAINT_TOO_LARGE, f"the constraint nests deeper than {limits.nesting} levels")


def _depth(value: Any, enough: int) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        if deepest > enough:
            break
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return deepest
