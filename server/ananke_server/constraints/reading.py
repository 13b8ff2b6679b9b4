"""Readings: a constraint in its typed form, and where each part of it stands in what the user wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ananke_client.constraint import Constraint
from ananke_client.report import Diagnostic


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part was written."""

    pointer: str
    inner: bool = True
    """Whether what is within the part stands there as it does in the typed form; if not, findings keep to the part as a whole."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A constraint as it was read."""

    constraint: Constraint
    warnings: tuple[Diagnostic, ...] = ()
    places: Mapping[str, Place] = field(default_factory=dict)
    """Written places by pointer into the typed form; what is not within any of them stands where it says."""

    def placed(self, findings: Iterable[Diagnostic]) -> list[Diagnostic]:
        """Findings about the typed constraint, with pointers into what the user wrote."""
        return placed(self.places, findings)


def placed(places: Mapping[str, Place], findings: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Findings with their pointers mapped, the longest part first."""
    return [_placed(places, finding) for finding in findings]


def _placed(places: Mapping[str, Place], finding: Diagnostic) -> Diagnostic:
    pointer = finding.pointer
    if pointer is None or not places:
        return finding
    prefix = pointer
    while prefix not in places:
        if not prefix:
            return finding
        prefix = prefix.rpartition("/")[0]
    place = places[prefix]
    if not place.inner:
        return finding.model_copy(update={"pointer": place.pointer, "line": None, "column": None})
    return finding.model_copy(update={"pointer": place.pointer + pointer[len(prefix) :]})
