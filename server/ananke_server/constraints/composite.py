"""Composites: constraints of constraints, in one grammar where that is exact, else side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import prod
from typing import Any

from ananke_client.constraint import CompositeConstraint, Constraint, JsonSchemaConstraint
from ananke_client.errors import ErrorCode
from ananke_client.report import Diagnostic
from ananke_server.constraints.complaints import diagnostic_of
from ananke_server.constraints.fragments import Fragment, intersection, is_empty, sequence, undecided, union
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.plan import Plan, within
from ananke_server.constraints.refusal import Refusal, refuse
from ananke_server.masking.program import Branch, Program

PlanOf = Callable[[Constraint, Limits], Plan]

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef", "$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$schema", "$vocabulary")


def composite_plan(constraint: CompositeConstraint, limits: Limits, plan_of: PlanOf) -> Plan:
    """The plan of a composite, by the plans of its members.

    Raises:
        Refusal: with the faults of all members, or because the members cannot be satisfied, or decided, together.
    """
    if (count := _count(constraint)) > limits.constraints:
        message = f"{count:,} constraints within each other; at most {limits.constraints:,} are taken"
        raise refuse(ErrorCode.CONSTRAINT_TOO_LARGE, message, pointer="/constraints")
    plans = _member_plans(constraint, limits, plan_of)
    if len(plans) == 1:
        return plans[0]
    match constraint.mode:
        case "any":
            return _any_of(plans)
        case "all":
            return _all_of(constraint, plans, limits, plan_of)
        case "sequence":
            return _sequence_of(plans, limits)


def _count(constraint: Constraint) -> int:
    members = constraint.constraints if isinstance(constraint, CompositeConstraint) else []
    return 1 + sum(map(_count, members))


def _member_plans(constraint: CompositeConstraint, limits: Limits, plan_of: PlanOf) -> list[Plan]:
    """The members' plans, with pointers into the composite."""
    plans: list[Plan] = []
    faults: list[Diagnostic] = []
    for index, member in enumerate(constraint.constraints):
        place = f"/constraints/{index}"
        try:
            plan = plan_of(member, limits)
            if not isinstance(member, CompositeConstraint):
                _check(member, plan)
        except Refusal as refusal:
            faults.extend(within(place, refusal.diagnostics))
        else:
            findings = (within(place, found) for found in (plan.warnings, plan.relaxed, plan.rewritten))
            plans.append(Plan(plan.alternatives, plan.side_by_side, *findings))
    if faults:
        raise Refusal(faults)
    return plans


def _check(member: Constraint, plan: Plan) -> None:
    for fragment in plan.alternatives:
        if (complaint := fragment.complaint()) is not None:
            raise Refusal([diagnostic_of(member, complaint)])


def _any_of(plans: Sequence[Plan]) -> Plan:
    terminals = [plan.terminal for plan in plans if plan.terminal is not None]
    united = (union(terminals),) if terminals else ()
    alternatives = (*united, *(fragment for plan in plans if plan.terminal is None for fragment in plan.alternatives))
    apart = [plan.side_by_side for plan in plans if plan.side_by_side is not None]
    if not apart:
        return _with_findings(plans, alternatives=alternatives)
    parts = [Plan(alternatives).program, *apart] if alternatives else apart
    return _with_findings(plans, side_by_side=_branch("any", parts))


def _all_of(constraint: CompositeConstraint, plans: Sequence[Plan], limits: Limits, plan_of: PlanOf) -> Plan:
    terminals = [plan.terminal for plan in plans if plan.terminal is not None]
    others = [plan for plan in plans if plan.terminal is None]
    if terminals:
        met = intersection(terminals)
        if is_empty(met):
            raise refuse(ErrorCode.INVALID_CONSTRAINT, "no output can satisfy all of these constraints", pointer="/constraints")
        if not others:
            return _with_findings(plans, alternatives=(met,))
    merged = _merged_schemas(constraint, limits, plan_of)
    if merged is not None:
        schemas = {index for index, member in enumerate(constraint.constraints) if isinstance(member, JsonSchemaConstraint)}
        others = [merged, *(plan for index, plan in enumerate(plans) if plan.terminal is None and index not in schemas)]
    kept = [*(plan for plan in plans if plan.terminal is not None), *others]
    if not terminals and len(others) == 1:
        return _with_findings(kept, alternatives=others[0].alternatives, side_by_side=others[0].side_by_side)
    parts = [*([Plan((met,)).program] if terminals else []), *(plan.program for plan in others)]
    return _with_findings(kept, side_by_side=_branch("all", parts))


def _merged_schemas(constraint: CompositeConstraint, limits: Limits, plan_of: PlanOf) -> Plan | None:
    """The schemas among the members as one ``allOf``, where that says the same and gives up nothing; None where they stay side by side."""
    members = [(index, member) for index, member in enumerate(constraint.constraints) if isinstance(member, JsonSchemaConstraint)]
    if len(members) < 2 or len({(member.whitespace, member.unsupported) for _, member in members}) > 1:
        return None
    if any(name in _keys(member.schema_) for _, member in members for name in _REFERENCES):
        return None
    first = members[0][1]
    schemas = [member.schema_ for _, member in members]
    joined = JsonSchemaConstraint(schema={"allOf": schemas}, whitespace=first.whitespace, unsupported=first.unsupported)
    indices = [index for index, _ in members]
    try:
        plan = plan_of(joined, limits)
        _check(joined, plan)
    except Refusal as refusal:
        if any(fault.code == ErrorCode.INVALID_CONSTRAINT for fault in refusal.diagnostics):
            faults = [_into_members(fault, indices) for fault in refusal.diagnostics]
            raise Refusal(faults) from None
        return None
    if plan.relaxed:
        return None
    findings = (tuple(_into_members(fault, indices) for fault in found) for found in (plan.warnings, (), plan.rewritten))
    return Plan(plan.alternatives, plan.side_by_side, *findings)


def _keys(value: Any) -> Iterator[str]:
    pending = [value]
    while pending:
        found = pending.pop()
        if isinstance(found, dict):
            yield from found
        pending.extend(found.values() if isinstance(found, dict) else found if isinstance(found, list) else ())


def _into_members(fault: Diagnostic, indices: Sequence[int]) -> Diagnostic:
    """A finding about ``{"allOf": [...]}``, told of the members that it was made of."""
    parts = (fault.pointer or "").split("/", 4)
    if parts[1:3] != ["schema", "allOf"] or len(parts) < 4:
        return fault.model_copy(update={"pointer": "/constraints"})
    rest = f"/{parts[4]}" if len(parts) > 4 else ""
    return fault.model_copy(update={"pointer": f"/constraints/{indices[int(parts[3])]}/schema{rest}"})


def _sequence_of(plans: Sequence[Plan], limits: Limits) -> Plan:
    if faults := list(_inseparable(plans)):
        raise Refusal(faults)
    ways = prod(len(plan.alternatives) for plan in plans)
    if ways > limits.constraints:
        message = f"the sequence can go {ways:,} ways; at most {limits.constraints:,} are taken"
        raise refuse(ErrorCode.CONSTRAINT_TOO_LARGE, message, pointer="/constraints")
    combined: list[Fragment] = []
    for way in product(*(plan.alternatives for plan in plans)):
        parts = [part for fragment in way for part in fragment.parts or (fragment,)]
        owners = [index for index, fragment in enumerate(way) for _ in fragment.parts or (fragment,)]
        if (found := undecided(parts)) is not None:
            earlier, later, shared = owners[found[0]], owners[found[1]], found[2]
            message = (
                f"the constraint at {earlier} can go on with {shared}, with which that at {later} can begin: a mask could not tell which"
            )
            hint = "exclude it from the first, set the two apart by a choice, or write both as one grammar"
            raise refuse(ErrorCode.UNSUPPORTED_CONSTRAINT, message, pointer=f"/constraints/{earlier}", hint=hint)
        combined.append(sequence(parts))
    terminals = [fragment for fragment in combined if fragment.is_terminal]
    united = [union(terminals)] if terminals else []
    return _with_findings(plans, alternatives=(*united, *(fragment for fragment in combined if not fragment.is_terminal)))


def _inseparable(plans: Sequence[Plan]) -> Iterator[Diagnostic]:
    """What can stand in no sequence."""
    for index, plan in enumerate(plans):
        message = hint = None
        if plan.side_by_side is not None:
            message, hint = (
                "a token mask, and what is enforced side by side, can stand in no sequence",
                "put it around the sequence, with 'all'",
            )
        elif not all(fragment.mergeable for fragment in plan.alternatives):
            message = "a grammar with %ignore, options, parametric rules or grammars within can stand in no sequence"
            hint = "write white space into its rules"
        elif plan.relaxed:
            places = ", ".join(str(finding.pointer) for finding in plan.relaxed)
            message = f"a part of a sequence cannot be verified on the finished output: {places}"
            hint = "leave out what a mask cannot express"
        if message is not None:
            yield Diagnostic(code=ErrorCode.UNSUPPORTED_CONSTRAINT, message=message, pointer=f"/constraints/{index}", hint=hint)


def _with_findings(plans: Sequence[Plan], *, alternatives: tuple[Fragment, ...] = (), side_by_side: Program | None = None) -> Plan:
    return Plan(
        alternatives,
        side_by_side,
        warnings=tuple(finding for plan in plans for finding in plan.warnings),
        relaxed=tuple(finding for plan in plans for finding in plan.relaxed),
        rewritten=tuple(finding for plan in plans for finding in plan.rewritten),
    )


def _branch(mode: Any, parts: Sequence[Program]) -> Program:
    """Programs side by side; branches of the same mode become one."""
    flat: list[Program] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Branch) and part.mode == mode else (part,))
    return flat[0] if len(flat) == 1 else Branch(mode, tuple(flat))
