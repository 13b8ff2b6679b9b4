"""Languages over short texts: what a program's grammars admit, each leaf asked by itself, and what independent judges say."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from llguidance import LLTokenizer

from ananke_server.constraints import Compiler
from ananke_server.masking.matchers import error_text, new_matcher
from ananke_server.masking.program import Leaf, Program, from_text

TOKENIZER = LLTokenizer("byte")
COMPILER = Compiler(TOKENIZER)


def texts_over(alphabet: str, length: int) -> list[str]:
    """Every text over the alphabet up to a length."""
    return ["".join(letters) for count in range(length + 1) for letters in itertools.product(alphabet, repeat=count)]


def admitted(program: Program, texts: Iterable[str]) -> set[str]:
    """The texts that a program admits: a leaf's by its matcher, a branch's by set operations."""
    if isinstance(program, Leaf):
        return _admitted_by(program.grammar, texts)
    parts = [admitted(part, texts) for part in program.parts]
    return set.intersection(*parts) if program.mode == "all" else set.union(*parts)


def language(constraint: str, texts: Iterable[str]) -> set[str]:
    """The texts that an accepted constraint admits."""
    compiled = COMPILER.compile(constraint)
    assert compiled.report.accepted, compiled.report
    assert compiled.grammar is not None
    return admitted(from_text(compiled.grammar), texts)


def _admitted_by(grammar: str, texts: Iterable[str]) -> set[str]:
    matcher = new_matcher(TOKENIZER, grammar)
    assert not matcher.is_error(), error_text(matcher)
    found: set[str] = set()
    for text in texts:
        tokens = list(text.encode())
        consumed = matcher.try_consume_tokens(tokens)
        if consumed == len(tokens) and matcher.is_accepting():
            found.add(text)
        assert not matcher.is_error(), error_text(matcher)
        assert consumed == 0 or matcher.rollback(consumed)
    return found
