"""Reading: the values that a JSON text can be taken for, with nothing of its numbers rounded."""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, NoReturn

# A surrogate pair and any other escape pass; what is left is unpaired.
_SURROGATES = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u([dD][89a-fA-F][0-9a-fA-F]{2})|\\[^u]|([\ud800-\udfff])", re.DOTALL
)
_INT_DIGITS = 4000


def readings(text: str) -> list[Any]:
    """The values of a JSON text: one, or two where a key is repeated, as a reader that keeps the last value and one that keeps the first.

    Fractions and exponents come as ``Decimal``. An unpaired surrogate, which JSON's grammar allows and no UTF-8 text can hold,
    is taken for a private character of its own.

    Raises:
        ValueError: the text is not JSON.
        OverflowError: a number's exponent is beyond 10^18.
        RecursionError: it nests deeper than Python's recursion limit.
    """
    text = _SURROGATES.sub(_paired, text)
    repeated = False

    def last(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        value = dict(pairs)
        repeated = repeated or len(value) < len(pairs)
        return value

    value = _load(text, last)
    return [value, _load(text, lambda pairs: dict(reversed(pairs)))] if repeated else [value]


def _load(text: str, hook: Any) -> Any:
    return json.loads(text, object_pairs_hook=hook, parse_float=_decimal, parse_int=_integer, parse_constant=_refuse_constant)


def _paired(found: re.Match[str]) -> str:
    lone: str | Literal[False] = found[1] or (found[2] and f"{ord(found[2]):x}")
    return chr(int(lone, 16) + 0x100000) if lone else found[0]


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise OverflowError(f"the exponent of {text[:40]} is too large") from None


def _integer(text: str) -> int | Decimal:
    # Python refuses to convert longer ones to int, since that takes quadratic time.
    return int(text) if len(text) <= _INT_DIGITS else Decimal(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
