"""Kinds: which kinds of constraints a server takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from ananke_client.constraint import CompositeConstraint, Constraint
from ananke_client.errors import ErrorCode
from ananke_client.report import Diagnostic
from ananke_server.constraints.refusal import MAX_FAULTS, Refusal


@dataclass(frozen=True, slots=True)
class Kinds:
    """Kinds of constraints, each on or off, wherever one stands: alone, within a composite, or in the flat form."""

    json_schema: bool = True
    """JSON values that a schema admits."""
    regex: bool = True
    """Texts that match a pattern."""
    choice: bool = True
    """One of some texts."""
    grammar: bool = True
    """Texts of a Lark or GBNF grammar."""
    token_mask: bool = True
    """Texts of allowed tokens."""
    composite: bool = True
    """Several constraints at once or in a row; the flat form with several keys is one too."""

    def check(self, constraint: Constraint) -> None:
        """Raises:
        Refusal: a kind is off that the constraint, or a part of it, is of.
        """
        switched = asdict(self)
        off = [(pointer, kind) for pointer, kind in _kinds_of(constraint, "") if not switched[kind]]
        if off:
            hint = f"use another kind: {', '.join(kind for kind, on in switched.items() if on) or 'all are off'}"
            raise Refusal([_switched_off(pointer, kind, hint) for pointer, kind in off[:MAX_FAULTS]])


def _switched_off(pointer: str, kind: str, hint: str) -> Diagnostic:
    message = f"the operator of this server has switched constraints of the kind {kind} off"
    return Diagnostic(code=ErrorCode.UNSUPPORTED_CONSTRAINT, message=message, pointer=pointer, hint=hint)


def _kinds_of(constraint: Constraint, pointer: str) -> Iterator[tuple[str, str]]:
    """The kinds of a constraint and of its parts, each with its JSON pointer."""
    yield pointer, constraint.type
    if isinstance(constraint, CompositeConstraint):
        for index, part in enumerate(constraint.constraints):
            yield from _kinds_of(part, f"{pointer}/constraints/{index}")
