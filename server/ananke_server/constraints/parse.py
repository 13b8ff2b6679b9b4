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
from ananke_server.constraints.refusal import Refusal, pointer_of, refuse
from ananke_server.repeats import repeated_key

MAX_BYTES = 1 << 20
MAX_NESTING = 200

# Kinds of the contract that this server does not enforce yet.
_PLANNED = ("token_mask", "composite")


def parse(text: str) -> Constraint:
    """The constraint of a JSON text.

    Raises:
        Refusal: the text is too large, no JSON, or no constraint.
    """
    return _typed(load_json(text))


def load_json(text: str) -> Any:
    """The JSON value of a text that is within the limits.

    Raises:
        Refusal: it is not, with line and column.
    """
    size = len(text.encode("utf-8", errors="surrogatepass"))
    if size > MAX_BYTES:
        raise refuse(ErrorCode.CONSTRAINT_TOO_LARGE, f"the constraint has {size:,} bytes; at most {MAX_BYTES:,} are taken")
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=unique_object)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as fault:
        message = f"the constraint is not JSON: {fault.msg}"
        raise refuse(ErrorCode.INVALID_CONSTRAINT, message, line=fault.lineno, column=fault.colno) from None
    except UnicodeEncodeError:
        raise refuse(ErrorCode.INVALID_CONSTRAINT, "the constraint has an unpaired surrogate, which no UTF-8 text can hold") from None
    except RecursionError:
        raise too_deep() from None
    except ValueError as fault:
        raise refuse(ErrorCode.INVALID_CONSTRAINT, f"the constraint is not JSON: {fault}") from None
    if _depth(value) > MAX_NESTING:
        raise too_deep()
    return value


def _typed(value: Any) -> Constraint:
    if not isinstance(value, dict):
        hint = 'like {"type": "regex", "pattern": "[a-z]+"}'
        raise refuse(ErrorCode.INVALID_CONSTRAINT, "a constraint is a JSON object", pointer="", hint=hint)
    kind = value.get("type")
    if kind in _PLANNED or (kind == "grammar" and value.get("syntax") == "gbnf"):
        what = "GBNF grammars are" if kind == "grammar" else f"constraints of type {kind!r} are"
        where = "/syntax" if kind == "grammar" else "/type"
        raise refuse(ErrorCode.UNSUPPORTED_CONSTRAINT, f"{what} not supported yet", pointer=where, hint=f"types: {', '.join(KINDS)}")
    try:
        return parse_constraint(value)
    except ValidationError as fault:
        faults = [_diagnostic(error, kind) for error in fault.errors(include_url=False, include_input=False, include_context=False)]
        raise Refusal(list(dict.fromkeys(faults))) from None


def _diagnostic(error: Any, kind: object) -> Diagnostic:
    path: Sequence[object] = error["loc"]
    if path and path[0] == kind:
        path = path[1:]
    message: str = error["msg"]
    hint = None
    if error["type"].startswith("union_tag"):
        path = ("type",) if error["type"] == "union_tag_invalid" else ()
        message = f"unknown type {kind!r}" if kind is not None else "the constraint has no 'type'"
        hint = f"types: {', '.join(KINDS)}"
    elif kind == "json_schema" and len(path) > 1:
        # pydantic names the branch of the union: a schema is an object or a boolean.
        path, message = ("schema",), "a schema is a JSON object, true or false"
    elif error["type"] == "extra_forbidden":
        message = "unknown key"
        hint = "remove it"
    return Diagnostic(code=ErrorCode.INVALID_CONSTRAINT, message=message, pointer=pointer_of(list(path)), hint=hint)


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


def too_deep() -> Refusal:
    """The refusal of a constraint that nests too deep."""
    return refuse(ErrorCode.CONSTRAINT_TOO_LARGE, f"the constraint nests deeper than {MAX_NESTING} levels")


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        if deepest > MAX_NESTING:
            break
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return deepest
