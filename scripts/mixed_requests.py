"""Requests of a mixed load: good ones that are judged, bad ones, cancelled ones and huge ones, each with the ends that it may have."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import lark
from cases import CASES, Case
from corpus import distinct
from jsonschema import Draft202012Validator
from tokenizers import Tokenizer

from ananke_client import ConstraintSpec, GenerationConfig, parse_constraint
from ananke_client.request import ConstraintLike
from ananke_server.launch import DEFAULT_MODEL

SHARES = {"good": 60, "bad": 16, "cancelled": 16, "huge": 8}
"""Of a hundred requests."""
NEW_EVERY = 5
"""Each fifth good request has a constraint that nobody sent before."""
WAYS = ("close", "cancel", "deadline", "drop")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request, and how it may end: with ``ok``, where ``judge`` takes the text, or with one of some codes.

    ``overloaded`` is an answer that any request may get. ``way`` is how a cancelled one is left, ``body`` what goes over HTTP as it
    stands, past the clients.
    """

    kind: str
    name: str
    prompt: str = "x"
    constraint: ConstraintLike | None = None
    config: GenerationConfig = field(default_factory=GenerationConfig)
    judge: Callable[[str], bool] | None = None
    ends: Sequence[str] = ("ok",)
    way: str | None = None
    body: bytes | None = None


def request(number: int) -> Request:
    """The request of this number, always the same."""
    draw = random.Random(number)
    kind = draw.choices(list(SHARES), list(SHARES.values()))[0]
    return {"good": _good, "bad": _bad, "cancelled": _cancelled, "huge": _huge}[kind](number, draw)


def _good(number: int, draw: random.Random) -> Request:
    if number % NEW_EVERY == 0:
        constraint = parse_constraint(json.loads(distinct(number)))
        case = Case(f"new {constraint.type}", "One more: ", constraint, 60)
    else:
        case = draw.choice(CASES)
        others = _others()
        if (index := draw.randrange(len(CASES) + len(others))) < len(others):
            return others[index](number)
    config = _config(number, case.max_tokens)
    return Request(kind="good", name=case.name, prompt=case.prompt, constraint=case.constraint, config=config, judge=case.judge)


def _config(number: int, max_tokens: int) -> GenerationConfig:
    return GenerationConfig(max_tokens=max_tokens, temperature=1.0, top_p=1.0, top_k=0, seed=number)


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


def _is_unique(text: str) -> bool:
    return Draft202012Validator(_UNIQUE).is_valid(json.loads(text))


def _is_nested(text: str) -> bool:
    grammar = 'start: "(" start ")" | /[a-z]{1,5}/'
    try:
        lark.Lark(grammar, parser="earley", lexer="dynamic_complete").parse(text)
    except lark.exceptions.LarkError:
        return False
    return True


@cache
def _digit_tokens() -> list[int]:
    tokenizer = Tokenizer.from_file(str(DEFAULT_MODEL / "tokenizer.json"))
    return [token for digit in "0123456789" if (token := tokenizer.token_to_id(digit)) is not None]


_UNIQUE = {"type": "array", "items": {"enum": ["a", "b", "c", "d"]}, "uniqueItems": True, "minItems": 1, "maxItems": 3}
_ANSWER = {"type": "composite", "mode": "sequence", "constraints": [{"type": "choice", "choices": ["A: ", "B: "]}]}
_ANSWER["constraints"] += [{"type": "json_schema", "schema": {"type": "boolean"}}]  # type: ignore[operator]


@cache
def _others() -> list[Callable[[int], Request]]:
    """Makers of good requests of the kinds that cases.py lacks."""
    letters = ConstraintSpec.regex("[a-z]{2,5}[0-9]+")
    rows: list[tuple[str, ConstraintLike | None, int, Callable[[str], bool] | None, tuple[str, ...]]] = [
        ("none", None, 40, None, ("ok",)),
        ("token mask", ConstraintSpec.token_mask(allowed=_digit_tokens()), 12, _matches("[0-9]*"), ("ok",)),
        ("sequence", _ANSWER, 12, _matches("(A|B): (true|false)"), ("ok",)),
        ("any", ConstraintSpec.any_of(ConstraintSpec.choice("yes", "no"), letters), 20, _matches("yes|no|[a-z]{2,5}[0-9]+"), ("ok",)),
        ("all", ConstraintSpec.all_of(letters, ConstraintSpec.regex("[a-m]+[0-4]{1,5}")), 20, _matches("[a-m]{2,5}[0-4]{1,5}"), ("ok",)),
        ("gbnf", ConstraintSpec.grammar('root ::= "(" root ")" | [a-z]{1,5}', syntax="gbnf"), 30, _is_nested, ("ok", "dead_end")),
        ("verified", ConstraintSpec.json_schema(_UNIQUE, unsupported="verify"), 40, _is_unique, ("ok", "verification_failed")),
        ("flat", {"grammar": 'start: "x"+\n', "regex_patterns": ["^x{3,9}$"], "name": "f"}, 16, _matches("x{3,9}"), ("ok",)),
    ]

    def maker(row: tuple[Any, ...]) -> Callable[[int], Request]:
        name, constraint, tokens, judge, ends = row
        return lambda number: Request(
            kind="good", name=name, prompt="One: ", constraint=constraint, config=_config(number, tokens), judge=judge, ends=ends
        )

    return [maker(row) for row in rows]


def _body(**fields: Any) -> bytes:
    return json.dumps({"text_input": "x", **fields}).encode()


_UNFINISHED = ConstraintSpec.all_of(
    ConstraintSpec.grammar('start: "x" part\npart: "(" part ")" | "a"'), ConstraintSpec.grammar('start: "x" part\npart: "[" part "]" | "b"')
)
_REFUSED: list[tuple[str, ConstraintLike, dict[str, Any], str]] = [
    ("regex not closed", {"type": "regex", "pattern": "a("}, {}, "invalid_constraint"),
    ("no such kind", {"type": "nonsense"}, {}, "invalid_constraint"),
    ("constraint is no JSON", "{", {}, "invalid_constraint"),
    ("lookahead", {"type": "regex", "pattern": "(?=a)b"}, {}, "unsupported_constraint"),
    ("uniqueItems", {"type": "json_schema", "schema": {"type": "array", "uniqueItems": True}}, {}, "unsupported_constraint"),
    ("misspelt parameter", {"type": "regex", "pattern": "a"}, {"temperatur": 1}, "invalid_request"),
    ("n is 2", {"type": "regex", "pattern": "a"}, {"n": 2}, "invalid_request"),
    ("dead end", _UNFINISHED, {}, "dead_end"),
]
_BODIES: list[tuple[str, bytes, str]] = [
    ("body cut short", b'{"text_input": "x", "constr', "HTTP 500"),
    ("body is no JSON", b"\x00\xff\xfe", "HTTP 500"),
    ("constraint is an object", _body(constraint={"type": "regex", "pattern": "a"}), "HTTP 500"),
    ("no prompt", b'{"constraint": "{}"}', "invalid_request"),
    ("unknown input", _body(guided_regex="a"), "invalid_request"),
    ("deadline is a text", _body(deadline_ms="soon"), "invalid_request"),
]


def _bad(number: int, draw: random.Random) -> Request:
    index = draw.randrange(len(_REFUSED) + len(_BODIES))
    if index < len(_REFUSED):
        name, constraint, extra, end = _REFUSED[index]
        return Request(kind="bad", name=name, constraint=constraint, config=GenerationConfig(extra=extra), ends=(end,))
    name, body, end = _BODIES[index - len(_REFUSED)]
    return Request(kind="bad", name=name, body=body, ends=(end,))


def _cancelled(number: int, draw: random.Random) -> Request:
    way = draw.choice(WAYS)
    constraint = ConstraintSpec.regex("[a-z ]{3000}")
    # The lease of one that will be dropped can run out on a busy server before there is anything to drop.
    ends = {"close": ["closed"], "cancel": ["cancelled"], "deadline": ["deadline_exceeded"], "drop": ["dropped", "cancelled"]}
    sampling = json.dumps({"max_tokens": 3100, "seed": number})
    body = _body(constraint=constraint.to_json(), sampling_parameters=sampling, stream=True, lease_ms=3000) if way == "drop" else None
    return Request(
        kind="cancelled", name=way, constraint=constraint, config=_config(number, 3100), ends=ends[way], way=way, body=body
    )


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "boolean"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": 1}
    return {"type": "json_schema", "schema": schema, "whitespace": "compact"}


def _choices(count: int) -> ConstraintLike:
    return {"type": "choice", "choices": [f"choice {index}" for index in range(count)]}


@cache
def _huge_rows() -> list[tuple[str, str, ConstraintLike, int, Callable[[str], bool] | None, tuple[str, ...]]]:
    short, too_large = {"type": "regex", "pattern": "[0-9]{4}"}, ("constraint_too_large",)
    nested = _nested(40)
    return [
        ("prompt of 1,200 words", "word " * 1200, short, 8, _matches("[0-9]{4}"), ("ok",)),
        ("prompt beyond the context", "word " * 9000, short, 8, None, ("invalid_request",)),
        ("prompt of 1 MiB", "word " * ((1 << 20) // 5), short, 8, None, ("invalid_request",)),
        ("9,000 choices", "Which? ", _choices(9000), 20, _matches("choice [0-9]{1,4}"), ("ok", *too_large)),
        ("20,000 choices", "Which? ", _choices(20_000), 20, None, too_large),
        ("40 levels", "Nested: ", nested, 120, lambda text: Draft202012Validator(nested["schema"]).is_valid(json.loads(text)), ("ok",)),
        ("400 levels", "Nested: ", _nested(400), 120, None, too_large),
        ("pattern of 2 MiB", "x", {"type": "regex", "pattern": "ab" * (1 << 20)}, 8, None, too_large),
        ("a bomb", "x", {"type": "regex", "pattern": "((a{1,400}b?){1,400}c?){1,400}"}, 8, None, (*too_large, "unsupported_constraint")),
        ("output cut", "Digits: ", {"type": "regex", "pattern": "[0-9]{2000}"}, 200, _matches("[0-9]{2000}"), ("ok",)),
    ]


def _huge(number: int, draw: random.Random) -> Request:
    name, prompt, constraint, tokens, judge, ends = draw.choice(_huge_rows())
    return Request(
        kind="huge", name=name, prompt=prompt, constraint=constraint, config=_config(number, tokens), judge=judge, ends=ends
    )


