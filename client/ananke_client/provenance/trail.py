"""The trail of an output's tokens: what finds the first token in which a repeated generation departs, and tells nobody else anything.

    h(0) = SHA-256("ananke token trail\\0" + the output's UTF-8)
    h(i) = SHA-256(h(i-1) + token i as four bytes, the least significant first)

The trail has the first four bytes of each h(i). Who holds the output can follow it, and find a token by trying the vocabulary;
who does not would have to guess the whole output, which the subject's digest lets one try anyway.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence

MARK_BYTES = 4
_DOMAIN = b"ananke token trail\0"


def trail_of(output: str, token_ids: Iterable[int]) -> str:
    """The trail, in base64. Costs half a microsecond a token.

    Args:
        output: the generated text, without the prompt.
    """
    head, marks = _head(output), bytearray()
    for token in token_ids:
        head = _next(head, token)
        marks += head[:MARK_BYTES]
    return base64.b64encode(marks).decode("ascii")


def first_departure(trail: str, output: str, token_ids: Sequence[int]) -> int | None:
    """The position of the first token that is not the trail's, or that only one of the two has; None where all are equal.

    Raises:
        ValueError: the trail is not base64 of whole marks.
    """
    recorded = _marks(trail)
    repeated = _marks(trail_of(output, token_ids))
    if recorded == repeated:
        return None
    pairs = zip(recorded, repeated, strict=False)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(recorded), len(repeated)))


def token_at(trail: str, output: str, before: Sequence[int], vocabulary: int) -> int | None:
    """The trail's token after the tokens ``before``, found by trying; None at the trail's end, or where none fits.

    Costs half a microsecond for each token of the vocabulary.
    """
    marks = _marks(trail)
    if len(before) >= len(marks):
        return None
    head = _head(output)
    for token in before:
        head = _next(head, token)
    return next((token for token in range(vocabulary) if _next(head, token)[:MARK_BYTES] == marks[len(before)]), None)


def _marks(trail: str) -> list[bytes]:
    data = base64.b64decode(trail, validate=True)
    if len(data) % MARK_BYTES:
        raise ValueError("the token trail does not consist of whole marks")
    return [data[start : start + MARK_BYTES] for start in range(0, len(data), MARK_BYTES)]


def _head(output: str) -> bytes:
    return hashlib.sha256(_DOMAIN + output.encode("utf-8", errors="surrogatepass")).digest()


def _next(head: bytes, token: int) -> bytes:
    return hashlib.sha256(head + token.to_bytes(4, "little")).digest()
