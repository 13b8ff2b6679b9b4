"""The judge of one schema: what is surely quick is judged at once, the rest by the judge process, within a time limit."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from functools import lru_cache

from jsonschema_rs import RegexOptions

from ananke_server.judging.process import JudgeDied, the_process
from ananke_server.judging.validator import Fault, Unjudgeable, Validator
from ananke_server.judging.weight import weight_of

# At some 20 ns for a subschema at a place of the output, a tenth of a second; most outputs come nowhere near it.
_WORK = 5_000_000
_COMPILE_WEIGHT = 2_000
_CHARACTERS = 20_000
# What ran out of time once would hold up every judgement behind it again.
_GIVEN_UP_SECONDS = 10.0
# Compiled patterns of this size match in time linear in the text, without backtracking.
_PLAIN_PATTERNS = RegexOptions(size_limit=64 << 10)


class SchemaJudge:
    """Judges texts by one schema. Safe to call from several threads."""

    def __init__(self, schema: str, formats: frozenset[str]) -> None:
        self._schema = schema
        self._formats = formats
        value = json.loads(schema)
        self._weight = weight_of(value)
        self._validator: Validator | None = None
        self._given_up: tuple[float, Fault] | None = None
        if self._weight <= _COMPILE_WEIGHT:
            # Where it fails, perhaps over a larger pattern or one with lookaround, the process tries.
            with suppress(Unjudgeable):
                self._validator = Validator(value, formats, _PLAIN_PATTERNS)

    def fault_of(self, output: str) -> Fault | None:
        """What is wrong with an output, or None. Costs microseconds for a plain schema; a process's round trip for one that recurses.

        Where the process runs out of time or crashes, the schema's outputs are not judged for the next ten seconds either.
        """
        if self._validator is not None and len(output) <= _CHARACTERS and self._weight * len(output) <= _WORK:
            with suppress(RecursionError):
                return self._validator.fault_of_text(output)
        if self._given_up is not None and time.monotonic() < self._given_up[0]:
            return self._given_up[1]
        try:
            return the_process().fault_of(self._schema, self._formats, output)
        except JudgeDied as death:
            fault = Fault(f"the output cannot be judged: {death}", judged=False)
            self._given_up = (time.monotonic() + _GIVEN_UP_SECONDS, fault)
            return fault


@lru_cache(maxsize=64)
def judge_of(schema: str, formats: frozenset[str]) -> SchemaJudge:
    """The judge of a schema's JSON text; the 64 used last are kept."""
    return SchemaJudge(schema, formats)
