"""Strings: what a part demands of a string, as an expression of Lark terminals over the whole JSON literal."""

from __future__ import annotations

import json
from functools import lru_cache

from llguidance import LLMatcher, LLTokenizer

from ananke_server.constraints.regex import Regex, quoted_any, quoted_length
from ananke_server.constraints.schema.parts import NameClass, StringPart

ANY_STRING = f'/"{quoted_any()}"/'
"""Any string in the canonical escape form."""


def literal(text: str) -> str:
    """The Lark literal that matches one string's JSON literal."""
    return json.dumps(json.dumps(text, ensure_ascii=False), ensure_ascii=False)


def expression(part: StringPart) -> str:
    """The terminal expression of a string part."""
    demanded = [_matching(regex) for regex, positive in part.patterns if positive]
    if part.least or part.most is not None:
        demanded.append(f'/"{quoted_length(part.least, part.most)}"/')
    return _conjunction(demanded or [ANY_STRING], [_matching(regex) for regex, positive in part.patterns if not positive], part.excluded)


def name_expression(other: NameClass, names: list[StringPart] | None, taken: list[str]) -> str:
    """The terminal expression of a class of property names, those in ``taken`` excepted."""
    demanded = [] if names is None else ["(" + " | ".join(map(expression, names)) + ")"]
    if other.cases != [[]]:
        demanded.append("(" + " | ".join(_case(case) for case in other.cases) + ")")
    return _conjunction(demanded or [ANY_STRING], [], taken)


@lru_cache(maxsize=4096)
def is_empty_expression(expression: str) -> bool:
    """Whether no text matches a terminal expression. Costs about a millisecond."""
    grammar = LLMatcher.grammar_from_lark(f"start: T\nT: {expression}")
    matcher = LLMatcher(_bytes(), grammar, log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()
    return bool(matcher.is_error()) and "NoExtension" in matcher.get_error()


def is_empty(part: StringPart) -> bool:
    """Whether no string meets what a part demands; only several demands together can do that."""
    return len(part.patterns) + len(part.excluded) > 0 and is_empty_expression(expression(part))


@lru_cache(maxsize=1)
def _bytes() -> LLTokenizer:
    return LLTokenizer("byte")


def _matching(regex: Regex) -> str:
    return f'/"(?:{regex.quoted_search()})"/'


def _case(case: list[tuple[Regex, bool]]) -> str:
    return _conjunction(
        [_matching(regex) for regex, matches in case if matches] or [ANY_STRING],
        [_matching(regex) for regex, matches in case if not matches],
        [],
    )


def _conjunction(demanded: list[str], forbidden: list[str], excluded: list[str]) -> str:
    terms = [*demanded, *(f"~{term}" for term in forbidden)]
    if excluded:
        terms.append("~(" + " | ".join(map(literal, sorted(excluded))) + ")")
    return " & ".join(terms)
