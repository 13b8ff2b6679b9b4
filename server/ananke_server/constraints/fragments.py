"""Fragments: grammars in Lark that can be made part of a larger one, and what is known of where their outputs begin and go on.

llguidance's lexer is greedy: a lexeme that can go on does, whatever the grammar around it might have wanted. Grammars are therefore put
together only where this cannot matter: within one terminal, or where the next byte tells the parts apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from llguidance import LLMatcher, LLTokenizer

from ananke_server.constraints.lark_tokens import obstacle, renamed, tokens_of
from ananke_server.masking.matchers import error_text, new_matcher
from ananke_server.masking.program import Branch, Leaf, Program

_EMPTY = "NoExtension"
_FOREIGN = ("Token range end too large", "unknown special token")
"""Complaints about tokens that the byte tokenizer does not have."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A grammar with the rule ``start``.

    A ``terminal`` consists of ``start: START`` and the definition of START alone; a ``json`` fragment's outputs are JSON values,
    without white space around them; of ``rules`` nothing is known.
    """

    lark: str
    shape: Literal["terminal", "json", "rules"] = "rules"
    parts: tuple[Fragment, ...] = ()
    """Where the fragment is a sequence of others."""

    @property
    def is_terminal(self) -> bool:
        return self.shape == "terminal"

    @property
    def mergeable(self) -> bool:
        return self.is_terminal or obstacle(self.lark) is None

    def complaint(self) -> str | None:
        """What llguidance has against the grammar, tokens of the model's own aside. Costs a compilation, of 1 ms and more."""
        message = _look(self.lark).complaint
        return None if message is not None and any(phrase in message for phrase in _FOREIGN) else message


def terminal(expression: str, definitions: str = "") -> Fragment:
    """A fragment of one terminal, by a Lark expression over regexes, strings and the terminals of ``definitions``."""
    return Fragment(f"start: START\nSTART: {expression}\n{definitions}", "terminal")


def program_of(alternatives: Sequence[Fragment]) -> Program:
    """The program of outputs that satisfy any of the fragments: one grammar where the first byte tells them apart, else side by side."""
    groups: list[list[Fragment]] = []
    for fragment in alternatives:
        group = next((group for group in groups if _distinct(fragment, group)), None)
        if group is None:
            groups.append([fragment])
        else:
            group.append(fragment)
    leaves = [Leaf(LLMatcher.grammar_from_lark(_either(group).lark)) for group in groups]
    return leaves[0] if len(leaves) == 1 else Branch("any", tuple(leaves))


def union(terminals: Sequence[Fragment]) -> Fragment:
    """The terminal of outputs that any of the terminals takes."""
    return _joined(terminals, " | ")


def intersection(terminals: Sequence[Fragment]) -> Fragment:
    """The terminal of outputs that all of the terminals take; it may be empty."""
    return _joined(terminals, " & ")


def is_empty(fragment: Fragment) -> bool:
    """Whether no output at all satisfies a terminal. Costs a compilation."""
    complaint = _look(fragment.lark).complaint
    return complaint is not None and _EMPTY in complaint


def sequence(parts: Sequence[Fragment]) -> Fragment:
    """One fragment after another; ``undecided`` says whether this is exact."""
    runs = [run for run, _ in _runs(parts)]
    if len(runs) == 1:
        return runs[0]
    names = " ".join(f"m{index}_start" for index in range(len(runs)))
    return Fragment("\n".join([f"start: {names}", *_members(runs)]), parts=tuple(parts))


def undecided(parts: Sequence[Fragment]) -> tuple[int, int, str] | None:
    """Two parts of a sequence, by index, and characters by which the first can go on where the second can begin; None if there are none.

    Between terminals in a row it does not matter: they are one.
    """
    runs = _runs(parts)
    for later, (follower, follower_index) in enumerate(runs):
        for run, index in reversed(runs[:later]):
            if shared := _shared(run, _look(follower.lark).firsts):
                return index, follower_index, shared
            if not _look(run.lark).nullable:
                break
    return None


def _runs(parts: Sequence[Fragment]) -> list[tuple[Fragment, int]]:
    """The parts, terminals in a row made one, each with the index of its first part."""
    runs: list[tuple[list[Fragment], int]] = []
    for index, part in enumerate(parts):
        if runs and part.is_terminal and runs[-1][0][0].is_terminal:
            runs[-1][0].append(part)
        else:
            runs.append(([part], index))
    return [(_joined(run, " "), index) for run, index in runs]


def _shared(part: Fragment, firsts: frozenset[int]) -> str:
    """Some of the bytes by which a part's complete output can go on, out of ``firsts``; the empty text if there are none."""
    if part.shape == "json":
        # Of JSON values only numbers are the beginning of others.
        begins_with_number = _look(part.lark).firsts & frozenset(b"-0123456789")
        return _shown(firsts & frozenset(b"0123456789.eE")) if begins_with_number else ""
    follows = f"/{_class_of(firsts)}(?s:.*)/"
    if part.is_terminal:
        longer = f"start: START\nSTART: M0_START & (M1_START {follows})\n" + "\n".join(_members([part, part]))
        return "" if not firsts or is_empty(Fragment(longer)) else _shown(firsts)
    return "" if not firsts or _without(part, follows) else _shown(firsts)


def _without(part: Fragment, follows: str) -> bool:
    """Whether none of a grammar's literals and regexes has any of the bytes."""
    for token in tokens_of(part.lark):
        if token.kind in ("statement", "grammar", "special") or token.text == "~":
            return False
        if token.kind in ("string", "regex") and not is_empty(terminal(f"{token.text} & (/(?s:.*)/ {follows})")):
            return False
    return True


def _either(group: Sequence[Fragment]) -> Fragment:
    if len(group) == 1:
        return group[0]
    names = " | ".join(f"m{index}_start" for index in range(len(group)))
    return Fragment("\n".join([f"start: {names}", *_members(group)]))


def _distinct(fragment: Fragment, group: Sequence[Fragment]) -> bool:
    """Whether the first byte tells a fragment from all of a group."""
    if not all(member.mergeable and _look(member.lark).complaint is None for member in (fragment, *group)):
        return False
    return all(_look(fragment.lark).firsts.isdisjoint(_look(member.lark).firsts) for member in group)


def _joined(terminals: Sequence[Fragment], operator: str) -> Fragment:
    if len(terminals) == 1:
        return terminals[0]
    names = operator.join(f"M{index}_START" for index in range(len(terminals)))
    definitions = [text.split("\n", 1)[1] for text in _members(terminals)]
    return terminal(names, "\n".join(definitions))


def _members(fragments: Sequence[Fragment]) -> list[str]:
    return [renamed(fragment.lark, f"m{index}") for index, fragment in enumerate(fragments)]


@dataclass(frozen=True, slots=True)
class _Look:
    """A grammar's beginning, seen through a tokenizer of single bytes."""

    complaint: str | None
    firsts: frozenset[int]
    nullable: bool


@lru_cache(maxsize=256)
def _look(lark: str) -> _Look:
    tokenizer = _byte_tokenizer()
    matcher = new_matcher(tokenizer, LLMatcher.grammar_from_lark(lark))
    mask = b"" if matcher.is_error() else matcher.compute_bitmask()
    if matcher.is_error():
        return _Look(error_text(matcher), frozenset(range(256)), True)
    bits = int.from_bytes(mask, "little")
    return _Look(None, frozenset(byte for byte in range(256) if bits >> byte & 1), bool(bits >> tokenizer.eos_token & 1))


@lru_cache(maxsize=1)
def _byte_tokenizer() -> LLTokenizer:
    return LLTokenizer("byte")


def _class_of(firsts: frozenset[int]) -> str:
    """A regex class of the characters that begin with one of the bytes, and, beyond ASCII, perhaps of more."""
    ascii_members = "".join(f"\\x{byte:02X}" for byte in sorted(firsts) if byte < 0x80)
    beyond = r"\x{80}-\x{10FFFF}" if max(firsts, default=0) >= 0x80 else ""
    return f"[{ascii_members}{beyond}]"


def _shown(firsts: frozenset[int]) -> str:
    return ", ".join(repr(chr(byte)) if byte < 0x80 else "a character beyond ASCII" for byte in sorted(firsts)[:3])
