"""Validators: jsonschema-rs, told which formats to assert, never to fetch anything, and never to backtrack without end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jsonschema_rs
from jsonschema_rs import Draft202012Validator, EmailOptions, FancyRegexOptions, RegexOptions, ValidationError, ValidationErrorKind

from ananke_server.drafts import Draft, Schema, UnknownDraft, draft_of
from ananke_server.judging.preparation import prepared
from ananke_server.judging.reading import readings

KNOWN_FORMATS = frozenset(
    {
        *("date", "date-time", "duration", "email", "hostname", "idn-email", "idn-hostname", "ipv4", "ipv6", "iri", "iri-reference"),
        *("json-pointer", "regex", "relative-json-pointer", "time", "uri", "uri-reference", "uri-template", "uuid"),
    }
)
"""The formats that the library can judge, each by its RFC."""

BACKTRACKS = 100_000
"""Steps that a pattern with lookaround or a backreference may take back on one string: a few milliseconds."""

_UNJUDGED = (
    ValidationErrorKind.BacktrackLimitExceeded,
    ValidationErrorKind.RegexEngineFailure,
    ValidationErrorKind.Referencing,
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with an output; not ``judged`` where the validator itself had to give up."""

    message: str
    judged: bool = True


class Unjudgeable(ValueError):
    """No validator can be made of a schema."""


class Validator:
    """A complete validator of one schema, by the draft that its ``$schema`` names (see ``drafts``).

    References reach within the schema and to its draft's own meta-schema. Of formats those given are asserted, in every draft,
    and all others are annotations.
    """

    def __init__(self, schema: Schema, formats: Iterable[str], patterns: FancyRegexOptions | RegexOptions | None = None) -> None:
        """Compiles the schema.

        Raises:
            Unjudgeable: a pattern, a reference or a keyword of it is beyond the library.
        """
        try:
            draft = validator_class(schema)
            self._validator = draft(
                prepared(schema),
                formats=_formats(frozenset(formats)),
                validate_formats=True,
                pattern_options=patterns or FancyRegexOptions(backtrack_limit=BACKTRACKS),
                offline=True,
            )
        except ValueError as error:
            raise Unjudgeable(_first_line(error)) from None

    def fault_of_text(self, text: str) -> Fault | None:
        """What is wrong with a JSON text, or None; where a key is repeated, every reading of it has to be valid.

        Raises:
            RecursionError: the text nests deeper than Python's recursion limit.
        """
        try:
            values = readings(text)
        except ValueError as error:
            return Fault(f"the output is not JSON: {error}")
        except OverflowError as error:
            return Fault(f"the output cannot be judged: {error}", judged=False)
        return next((fault for value in values if (fault := self.fault_of_value(value)) is not None), None)

    def fault_of_value(self, value: Any) -> Fault | None:
        """What is wrong with a JSON value, or None."""
        try:
            self._validator.validate(value)
        except ValidationError as error:
            place = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in error.instance_path)
            where = f"the output at {place[:200]}" if place else "the output"
            if isinstance(error.kind, _UNJUDGED):
                return Fault(f"{where} cannot be judged: {error.message[:300]}", judged=False)
            return Fault(f"{where}: {error.message[:300]}")
        except ValueError:
            # It is the error that cannot be told: Python makes no int of thousands of digits.
            return None if self._validator.is_valid(value) else Fault("the output is not valid")
        return None


_CLASSES: dict[Draft, type[jsonschema_rs.Validator]] = {
    Draft.D4: jsonschema_rs.Draft4Validator,
    Draft.D6: jsonschema_rs.Draft6Validator,
    Draft.D7: jsonschema_rs.Draft7Validator,
    Draft.D2019: jsonschema_rs.Draft201909Validator,
    Draft.D2020: jsonschema_rs.Draft202012Validator,
}


def validator_class(schema: Schema) -> type[jsonschema_rs.Validator]:
    """The library's class for the draft of a schema; that of 2020-12 where ``$schema`` names one that is not known."""
    try:
        return _CLASSES[draft_of(schema)]
    except UnknownDraft:
        return Draft202012Validator


@lru_cache(maxsize=8)
def _formats(asserted: frozenset[str]) -> dict[str, Callable[[str], bool]]:
    return {name: _format(name) if name in asserted else _annotation for name in KNOWN_FORMATS | asserted}


def _format(name: str) -> Callable[[str], bool]:
    # RFC 5322 has no display name within an addr-spec; the library would allow one.
    options = EmailOptions(allow_display_text=False)
    return Draft202012Validator({"format": name}, validate_formats=True, email_options=options).is_valid


def _annotation(_: str) -> bool:
    return True


def _first_line(error: ValueError) -> str:
    return str(getattr(error, "message", error)).split("\n")[0][:300]
