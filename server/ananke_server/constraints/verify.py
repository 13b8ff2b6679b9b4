"""Verification: a finished output against its constraint by a validator that shares nothing with the mask.

llguidance compares property names as they are written, so ``{"\\u0061": …}`` passes by the schema of ``a``; it lets a key
stand twice, and its dates are not held to the calendar. A complete validator sees all of these.
"""

from __future__ import annotations

import json
import re

from ananke_client.constraint import JsonSchemaConstraint
from ananke_server.constraints.parse import parse, unique_object
from ananke_server.constraints.refusal import Refusal
from ananke_server.constraints.schemas import validator_of


def fault_of(constraint: str, output: str) -> str | None:
    """What is wrong with an output of an accepted constraint, or None; only JSON schemas have more to verify than the mask."""
    parsed = parse(constraint)
    if not isinstance(parsed, JsonSchemaConstraint):
        return None
    validator = validator_of(parsed.schema_)
    try:
        value = json.loads(output, object_pairs_hook=unique_object)
        fault = next(validator(parsed.schema_, format_checker=validator.FORMAT_CHECKER).iter_errors(value), None)
    except Refusal as refusal:
        return f"the output is not taken as JSON: {refusal}"
    except ValueError as error:
        return f"the output is not JSON: {error}"
    except re.error:
        # A pattern in the mask's dialect of regular expressions that Python's does not have; the mask has enforced it.
        return None
    return None if fault is None else f"the output at {fault.json_path}: {fault.message[:300]}"
