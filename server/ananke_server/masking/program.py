"""Programs: what masks a request, as one text. Mostly a single llguidance grammar; else a tree of them whose masks are combined.

``all`` intersects its parts' masks, ``any`` unites them: what no single grammar of llguidance can say of two grammars.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Leaf:
    """One llguidance grammar, as ``LLMatcher`` takes it."""

    grammar: str


@dataclass(frozen=True, slots=True)
class Branch:
    """Programs side by side, of which all or any have to be satisfied."""

    mode: Literal["all", "any"]
    parts: tuple[Leaf | Branch, ...]


Program = Leaf | Branch


def to_text(program: Program) -> str:
    """The program as a text; a single grammar is its own text."""
    return program.grammar if isinstance(program, Leaf) else json.dumps(_to_json(program))


def from_text(text: str) -> Program:
    """The program of a text that ``to_text`` made."""
    value = json.loads(text) if text.startswith(('{"all":', '{"any":')) else text
    return _from_json(value)


def _to_json(program: Program) -> Any:
    return program.grammar if isinstance(program, Leaf) else {program.mode: [_to_json(part) for part in program.parts]}


def _from_json(value: Any) -> Program:
    if isinstance(value, str):
        return Leaf(value)
    [(mode, parts)] = value.items()
    return Branch(mode, tuple(_from_json(part) for part in parts))
