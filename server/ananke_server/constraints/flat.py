"""The flat form, which Ananke's compiler emits: an object without ``type`` whose keys are constraints and mean all of them.

Patterns are ECMAScript's and match somewhere in the output; a grammar's text is GBNF where it has ``::=``, else Lark. Keys that are no
constraint are metadata, and reported as such, unless they look like a constraint that was meant: then they are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from ananke_client.errors import ErrorCode
from ananke_client.report import Diagnostic
from ananke_server.constraints.patterns import pattern_fault
from ananke_server.constraints.reading import Place
from ananke_server.constraints.refusal import Refusal, pointer_of, refuse
from ananke_server.constraints.regex import RegexError, parse_regex

FLAT_KEYS = ("json_schema", "grammar", "regex_patterns", "token_mask", "token_masks")
OPTIONS = ("whitespace", "unsupported")
METADATA = (
    *("name", "description", "priority", "id", "version", "source", "source_language", "metadata", "generated_at", "constraint_count"),
    *("type_inhabitation", "hole_specs", "supports_refinement", "rich_context", "feasibility_score", "is_feasible", "optimization_level"),
)
"""Keys of Ananke's IR that constrain nothing by themselves."""

_MEANT = {
    **{"schema": "json_schema", "regex": "regex_patterns", "pattern": "regex_patterns", "patterns": "regex_patterns"},
    **{"lark": "grammar", "gbnf": "grammar", "ebnf": "grammar", "allowed_tokens": "token_mask", "forbidden_tokens": "token_mask"},
    **{"allowed": "token_mask", "forbidden": "token_mask"},
}
"""Keys that would be taken for metadata, and what was surely meant."""
_TYPED = ("choices", "choice", "constraints", "mode", "syntax", "dialect")
"""Keys of constraints with a ``type``."""
_LIKENESS = 0.8
_FLAGS = "ims"


@dataclass(slots=True)
class Flat:
    """What a flat object says: its members as typed JSON objects, and where each of their parts was written."""

    members: list[dict[str, Any]] = field(default_factory=list)
    places: list[dict[str, Place]] = field(default_factory=list)
    """For each member, written places by pointer into the typed object."""
    warnings: list[Diagnostic] = field(default_factory=list)
    faults: list[Diagnostic] = field(default_factory=list)

    def add(self, member: dict[str, Any], places: dict[str, Place]) -> None:
        self.members.append(member)
        self.places.append(places)

    def fault(self, path: list[object], message: str, hint: str | None = None, code: str = ErrorCode.INVALID_CONSTRAINT) -> None:
        self.faults.append(Diagnostic(code=code, message=message, pointer=pointer_of(path), hint=hint))


def is_flat(value: dict[str, Any]) -> bool:
    """Whether an object is in the flat form."""
    return "type" not in value and any(key in value for key in FLAT_KEYS)


def read_flat(value: dict[str, Any], load_json: Callable[[str], Any]) -> Flat:
    """The members of a flat object. A key that is null or an empty list is absent, as in Ananke's IR.

    Raises:
        Refusal: with every fault found.
    """
    flat = Flat()
    for key in value:
        if key not in FLAT_KEYS and key not in OPTIONS:
            _metadata(flat, key)
    present = {key: value[key] for key in FLAT_KEYS if value.get(key) is not None and value[key] != []}
    if "json_schema" in present:
        _json_schema(flat, value, load_json)
    elif unused := [option for option in OPTIONS if option in value]:
        flat.fault([unused[0]], f"{unused[0]!r} is an option of 'json_schema', which is absent", "remove it")
    if "grammar" in present:
        _grammar(flat, present["grammar"])
    if "regex_patterns" in present:
        _patterns(flat, present["regex_patterns"])
    for key in ("token_mask", "token_masks"):
        if key in present:
            for path, mask in _masks(key, present[key]):
                _token_mask(flat, path, mask)
    if flat.faults:
        raise Refusal(flat.faults)
    if not flat.members:
        raise refuse(ErrorCode.INVALID_CONSTRAINT, "the constraint constrains nothing", pointer="", hint="leave it out, or fill a key")
    return flat


def _metadata(flat: Flat, key: str) -> None:
    meant = _MEANT.get(key.lower()) or next(iter(get_close_matches(key.lower(), FLAT_KEYS + OPTIONS, 1, _LIKENESS)), None)
    if key in METADATA or (meant is None and key.lower() not in _TYPED):
        message = f"{ascii(key)[:80]} is metadata: kept, not enforced"
        flat.warnings.append(Diagnostic(code="metadata", message=message, pointer=pointer_of([key])))
    elif meant is None:
        flat.fault([key], f"{key!r} is a key of constraints with a 'type'", f"keys without a 'type': {', '.join(FLAT_KEYS)}")
    else:
        flat.fault([key], f"unknown key {ascii(key)[:80]}", f"did you mean {meant!r}?")


def _json_schema(flat: Flat, value: dict[str, Any], load_json: Callable[[str], Any]) -> None:
    schema = value["json_schema"]
    place = Place("/json_schema")
    if isinstance(schema, str):
        place = Place("/json_schema", inner=False)
        try:
            schema = load_json(schema)
        except Refusal as refusal:
            flat.faults.extend(fault.model_copy(update={"pointer": "/json_schema"}) for fault in refusal.diagnostics)
            return
    if isinstance(schema, dict) and "additional_properties" in schema:
        flat.fault(["json_schema", "additional_properties"], "JSON Schema has no such keyword", "did you mean 'additionalProperties'?")
        return
    options = {option: value[option] for option in OPTIONS if option in value}
    places = {"": Place("/json_schema"), "/schema": place, **{f"/{option}": Place(f"/{option}") for option in OPTIONS}}
    flat.add({"type": "json_schema", "schema": schema, **options}, places)


def _grammar(flat: Flat, grammar: Any) -> None:
    """A text, or an object of a text and perhaps its syntax."""
    path: list[object] = ["grammar"]
    syntax = None
    if isinstance(grammar, dict):
        names = [name for name in ("grammar", "rules") if name in grammar]
        unknown = [name for name in grammar if name not in ("syntax", "grammar", "rules")]
        syntax = grammar.get("syntax")
        if len(names) != 1 or unknown:
            hint = 'write the grammar as a text, or as {"syntax": "lark" or "gbnf", "grammar": "..."}'
            flat.fault(path + unknown[:1], "a grammar object has 'grammar' or 'rules', and perhaps 'syntax'", hint)
            return
        path.append(names[0])
        grammar = grammar[names[0]]
    text = "\n".join(grammar) if isinstance(grammar, list) and all(isinstance(line, str) for line in grammar) else grammar
    if not isinstance(text, str):
        hint = "rules of left- and right-hand sides are not taken: write them in Lark or GBNF"
        flat.fault(path, "a grammar is a text, or a list of its lines", hint, ErrorCode.UNSUPPORTED_CONSTRAINT)
        return
    syntax = ("gbnf" if "::=" in text else "lark") if syntax is None else syntax
    places = {"": Place("/grammar"), "/grammar": Place(pointer_of(path)), "/syntax": Place("/grammar/syntax")}
    flat.add({"type": "grammar", "syntax": syntax, "grammar": text}, places)


def _patterns(flat: Flat, patterns: Any) -> None:
    if not isinstance(patterns, list):
        flat.fault(["regex_patterns"], "a list of patterns is expected", 'like [{"pattern": "[a-z]+", "flags": "i"}]')
        return
    for index, entry in enumerate(patterns):
        path: list[object] = ["regex_patterns", index]
        if isinstance(entry, dict):
            for key in entry:
                if key not in ("pattern", "flags"):
                    message = f"{ascii(key)[:80]} is metadata: kept, not enforced"
                    flat.warnings.append(Diagnostic(code="metadata", message=message, pointer=pointer_of([*path, key])))
            pattern, flags = entry.get("pattern"), entry.get("flags")
            _pattern(flat, [*path, "pattern"], pattern, [*path, "flags"], "" if flags is None else flags)
        else:
            _pattern(flat, path, entry, path, "")


def _pattern(flat: Flat, path: list[object], pattern: Any, flags_path: list[object], flags: Any) -> None:
    if not isinstance(pattern, str):
        flat.fault(path, "a pattern is a string")
        return
    if not isinstance(flags, str) or any(flag not in _FLAGS for flag in flags):
        flat.fault(flags_path, "flags other than i, m and s are not taken", "write what they mean into the pattern", _unsupported(flags))
        return
    modifiers = "".join(sorted(set(flags)))
    opening = f"(?{modifiers}:" if modifiers else "(?:"
    # On its own first: a pattern like "a)(b" is none, though it would be within a group.
    for prefix, suffix in (("", ""), (opening, ")")):
        try:
            parse_regex(prefix + pattern + suffix, "ecma").search()
        except RegexError as fault:
            flat.faults.append(pattern_fault(fault, pattern, pointer_of(path), shift=len(prefix)))
            return
    wrapped = f"[\\s\\S]*{opening}{pattern})[\\s\\S]*"
    flat.add({"type": "regex", "pattern": wrapped, "dialect": "ecma"}, {"": Place(pointer_of(path), inner=False)})


def _unsupported(flags: Any) -> str:
    return ErrorCode.UNSUPPORTED_CONSTRAINT if isinstance(flags, str) else ErrorCode.INVALID_CONSTRAINT


def _masks(key: str, masks: Any) -> Iterator[tuple[list[object], Any]]:
    if isinstance(masks, list):
        yield from (([key, index], mask) for index, mask in enumerate(masks))
    else:
        yield [key], masks


def _token_mask(flat: Flat, path: list[object], mask: Any) -> None:
    if not isinstance(mask, dict):
        flat.fault(path, "a token mask is an object", 'like {"allowed_tokens": [1, 2], "forbidden_tokens": [3]}')
        return
    names = {"allowed_tokens": "allowed", "forbidden_tokens": "forbidden"}
    unknown = [key for key in mask if key not in names]
    for key in unknown:
        flat.fault([*path, key], f"unknown key {ascii(key)[:80]}", "a token mask has 'allowed_tokens' and 'forbidden_tokens'")
    present = {typed: mask[key] for key, typed in names.items() if mask.get(key) is not None}
    if not present and not unknown:
        flat.fault(path, "a token mask has 'allowed_tokens', 'forbidden_tokens' or both")
    elif present:
        places = {f"/{typed}": Place(pointer_of([*path, key])) for key, typed in names.items()}
        flat.add({"type": "token_mask", **present}, {"": Place(pointer_of(path)), **places})
