"""Verification: a finished output against its constraint by a validator that shares nothing with the mask.

A JSON schema's output is judged by jsonschema-rs, by the draft of ``$schema`` (4, 6, 7, 2019-09 or 2020-12, the default). The other
kinds have no more to verify than what the mask, and the matcher that replays the tokens, have seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache

from ananke_client.constraint import CompositeConstraint, Constraint, JsonSchemaConstraint
from ananke_server.constraints.parse import parse
from ananke_server.constraints.schema import formats
from ananke_server.judging.judge import judge_of
from ananke_server.judging.validator import Fault

ASSERTED_FORMATS = frozenset(formats.ASSERTED)
"""The formats that an output is held to, those that masks assert; any other is an annotation."""

Matches = Callable[[Constraint, str], bool]
"""Whether a text satisfies a constraint by the mask's own path."""


def fault_of(constraint: str, output: str, *, exact: bool = False, matches: Matches | None = None) -> str | None:
    """What is wrong with an output of an accepted constraint, with its place in the output, or None.

    What the validator cannot judge (a pattern that it does not have or that backtracks without end, more than three seconds of
    work) is a fault too, unless the guarantee is ``exact``: then the mask has enforced it. Where a key is repeated, the first and
    the last value have to be valid. ``matches`` tells for a member of an ``any`` that is no JSON schema whether it holds;
    without it, such a member counts as holding, since the mask has enforced the union.

    Costs tens of microseconds for a schema seen before; may block for seconds over a hostile one, without holding the GIL.
    """
    fault = _fault(_parsed(constraint), output, matches)
    return None if fault is None or (exact and not fault.judged) else fault.message


def has_validator(constraint: str) -> bool:
    """Whether a validator has anything to say of an output: of a JSON schema, alone or in an ``all`` or ``any``."""
    return _has_validator(_parsed(constraint))


def _has_validator(constraint: Constraint) -> bool:
    if not isinstance(constraint, CompositeConstraint):
        return isinstance(constraint, JsonSchemaConstraint)
    return constraint.mode != "sequence" and any(map(_has_validator, constraint.constraints))


def _fault(constraint: Constraint, output: str, matches: Matches | None) -> Fault | None:
    if isinstance(constraint, JsonSchemaConstraint):
        return judge_of(json.dumps(constraint.schema_), ASSERTED_FORMATS).fault_of(output)
    if not isinstance(constraint, CompositeConstraint) or constraint.mode == "sequence":
        return None
    if constraint.mode == "any":
        return _fault_of_any(constraint, output, matches)
    return _first(_fault(member, output, matches) for member in constraint.constraints)


def _fault_of_any(constraint: CompositeConstraint, output: str, matches: Matches | None) -> Fault | None:
    faults = []
    for member in constraint.constraints:
        fault = _fault_of_alternative(member, output, matches)
        if fault is None:
            return None
        faults.append(fault)
    return Fault(f"no alternative holds; of the first: {faults[0].message}", judged=all(fault.judged for fault in faults))


def _fault_of_alternative(member: Constraint, output: str, matches: Matches | None) -> Fault | None:
    """The fault of a member that the mask need not have enforced, as another alternative may have admitted the output."""
    if isinstance(member, CompositeConstraint) and member.mode == "all":
        return _first(_fault_of_alternative(part, output, matches) for part in member.constraints)
    if isinstance(member, JsonSchemaConstraint) or (isinstance(member, CompositeConstraint) and member.mode == "any"):
        return _fault(member, output, matches)
    if matches is None or matches(member, output):
        return None
    return Fault(f"the output does not match the {member.type}")


def _first(faults: Iterator[Fault | None]) -> Fault | None:
    return next((fault for fault in faults if fault is not None), None)


@lru_cache(maxsize=64)
def _parsed(constraint: str) -> Constraint:
    return parse(constraint)
