"""Canonical JSON (RFC 8785) and digests: one text for each value, so that a changed byte is a changed value."""

from __future__ import annotations

import hashlib
import json
from typing import Any

LARGEST_INTEGER = 2**53 - 1
"""Of JSON numbers: beyond it not every reader holds each integer apart."""


class NotCanonicalError(ValueError):
    """Bytes that are not the canonical form of a JSON value."""


def sha256(data: str | bytes) -> str:
    """SHA-256 in hexadecimal, of a text's UTF-8."""
    return hashlib.sha256(data.encode("utf-8", errors="surrogatepass") if isinstance(data, str) else data).hexdigest()


def canonical_json(value: Any) -> bytes:
    """The canonical form of a JSON value. Costs some 50 us for each KiB.

    Raises:
        ValueError: a number is not finite or an integer beyond 2**53 - 1, or a text has no UTF-8 encoding.
    """
    import rfc8785

    return rfc8785.dumps(value)


def read_canonical(data: bytes) -> Any:
    """The value whose canonical form these bytes are.

    Raises:
        NotCanonicalError: they are not JSON, or not its canonical form; the message says from which byte on.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_int=_number)
        expected = canonical_json(value)
    except UnicodeDecodeError as fault:
        raise NotCanonicalError(f"not UTF-8: byte {fault.start} is {data[fault.start]:#04x}") from None
    except (ValueError, RecursionError) as fault:
        raise NotCanonicalError(f"not JSON: {fault}") from None
    if expected != data:
        raise NotCanonicalError(f"not canonical JSON (RFC 8785) from byte {_first_difference(expected, data)} on")
    return value


def recordable(value: Any) -> Any:
    """A value that canonical JSON can hold: an integer beyond 2**53 - 1, and a number that is not finite, become their decimal text."""
    if isinstance(value, dict):
        return {recordable_text(str(name)): recordable(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [recordable(part) for part in value]
    if isinstance(value, str):
        return recordable_text(value)
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return str(value)
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value


def recordable_text(text: str) -> str:
    """A text that canonical JSON can hold: lone surrogates, as in a file's name that is not UTF-8, become their escapes."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def _number(text: str) -> int | float:
    # The canonical form of a large float is written as an integer.
    number = int(text) if len(text) < 25 else float(text)
    return number if abs(number) <= LARGEST_INTEGER else float(text)


def _first_difference(expected: bytes, data: bytes) -> int:
    pairs = zip(expected, data, strict=False)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(expected), len(data)))
