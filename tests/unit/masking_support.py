"""A small vocabulary, constraints whose languages can be listed, and the masks that these must give."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from ananke_server.masking.guides import Guide
from ananke_server.masking.matchers import MatcherPool
from ananke_server.masking.tickets import Failure, Ticket

# Three words of mask, the last one partly used; ends and other specials stand between the text tokens.
EOS_TOKENS = (3, 32, 68)
SPECIALS = {3: b"<end>", 17: b"<image>", 32: b"<turn>", 50: b"<pad>", 68: b"<stop>"}
MERGES = ("ab", "abc", "aa", "bc", "12", "((", "))", "tr", "true", "false", "é", '{"', '":', ',"', '"}', "x ", "zz", "zzz", "-1")
VOCABULARY = 69
WORDS = 3
_RUBBISH = 0x5A5A5A5A
TREES = ('{"all":', '{"any":')
LOGITS_WIDTH = 80
"""Wider than the masks, as a model's padded vocabulary is."""


def _tokens() -> list[bytes]:
    texts = [bytes([byte]) for byte in b'abcxtruefls0123456789z{}[]":,-.() _|;yw\xc3\xa9'] + [text.encode() for text in MERGES]
    tokens: list[bytes] = []
    for token in range(VOCABULARY):
        tokens.append(SPECIALS.get(token) or (texts.pop(0) if texts else b"filler%d" % token))
    assert not texts
    return tokens


TOKENS = _tokens()


class _GreedyEncoder:
    eos_token_id = EOS_TOKENS[0]
    bos_token_id = None
    tokens = TOKENS
    special_token_ids = tuple(SPECIALS)

    def __call__(self, text: bytes | str) -> list[int]:
        return encode(text if isinstance(text, bytes) else text.encode())


def encode(text: bytes) -> list[int]:
    """The longest token first: the canonical tokens of this vocabulary."""
    output = []
    while text:
        token = max((token for token in range(VOCABULARY) if text.startswith(TOKENS[token])), key=lambda token: len(TOKENS[token]))
        output.append(token)
        text = text[len(TOKENS[token]) :]
    return output


TOKENIZER = LLTokenizer(TokenizerWrapper(_GreedyEncoder()), eos_token=list(EOS_TOKENS))


@dataclass(frozen=True)
class Constraint:
    """A program and its words, all of them or those of up to some length.

    ``horizon`` is the longest text for which ``words`` still tell whether it begins a word of the language.
    """

    name: str
    grammar: str
    words: frozenset[bytes] = field(repr=False)
    horizon: int
    dead_ends: bool = False

    def is_viable(self, text: bytes) -> bool:
        return any(word.startswith(text) for word in self.words)


def _matches(pattern: str, alphabet: str, longest: int) -> frozenset[bytes]:
    texts = ("".join(letters) for size in range(longest + 1) for letters in itertools.product(alphabet, repeat=size))
    return frozenset(text.encode() for text in texts if re.fullmatch(pattern, text))


def _regex(pattern: str, alphabet: str, longest: int, horizon: int | None = None) -> Constraint:
    return Constraint(pattern, LLMatcher.grammar_from_regex(pattern), _matches(pattern, alphabet, longest), horizon or 1000)


def choice_of(*words: str) -> Constraint:
    grammar = LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, words)))
    return Constraint("choice", grammar, frozenset(word.encode() for word in words), 1000)


def tree(mode: str, *constraints: Constraint) -> Constraint:
    """Constraints side by side."""
    words = (constraint.words for constraint in constraints)
    parts = [json.loads(part.grammar) if part.grammar.startswith(TREES) else part.grammar for part in constraints]
    return Constraint(
        f"{mode}({', '.join(constraint.name for constraint in constraints)})",
        json.dumps({mode: parts}),
        frozenset.intersection(*words) if mode == "all" else frozenset.union(*words),
        min(constraint.horizon for constraint in constraints),
        any(constraint.dead_ends for constraint in constraints),
    )


def _schema() -> Constraint:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1, 12, "é"]}, "b": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    values = [{"a": a} | rest for a in (1, 12, "é") for rest in ({}, {"b": True}, {"b": False})]
    words = frozenset(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() for value in values)
    grammar = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
    return Constraint("json_schema", grammar, words, 1000)


NESTED = Constraint(
    "lark",
    LLMatcher.grammar_from_lark('start: "(" start ")" | "a" | "true"'),
    frozenset(b"(" * depth + word + b")" * depth for depth in range(30) for word in (b"a", b"true")),
    horizon=29,
)
REGEXES = [_regex("(ab?c|é){1,2}x?", "abcéx", 7), _regex("a+b*(12)?", "ab12", 8, horizon=7), _regex("abc(aa|true)?", "abctrue", 7)]
CHOICE = choice_of("ab", "abc", "abc12", "true", "x 1", "é")
CONSTRAINTS = [*REGEXES, NESTED, CHOICE, _schema()]
_LETTERS = _regex("(a|b|c|x){2,6}", "abcx", 6)
_WORD = choice_of("abc", "abcaa", "abx", "false")
TREES_OF_CONSTRAINTS = [
    tree("all", _LETTERS, _WORD),
    tree("any", REGEXES[2], choice_of("ab", "abctrue", "x 1", "false"), NESTED),
    tree("all", tree("any", _LETTERS, CHOICE), tree("any", _WORD, _schema())),
    tree("any", tree("all", _LETTERS, _WORD), _schema()),
]
OPEN_SCHEMA = Constraint("open schema", LLMatcher.grammar_from_json_schema({"type": "object"}), frozenset(), 0)
DEAD_END = Constraint("dead end", 'start: "x" T\nT: /a/ & /b/', frozenset(), 1000, dead_ends=True)
DISJOINT = tree("all", choice_of("abcaa", "zz"), _regex("abc(1|2)", "abc12", 4))
"""Its texts begin alike and have no end in common."""
DEAD_END_TREES = [tree("any", DEAD_END, CHOICE), DISJOINT, tree("any", DISJOINT, _WORD)]


class Mask(set[int]):
    """The tokens that a mask allows, and why its matcher failed."""

    failure: Failure = Failure.NONE


def expected_mask(constraint: Constraint, output: tuple[int, ...]) -> Mask:
    """What a program allows after ``output``, its leaves' masks combined as sets; EOS alone once it fails."""
    if not constraint.grammar.startswith(TREES):
        return _leaf_mask(constraint.grammar, output)
    allowed, follows = _tree_mask(json.loads(constraint.grammar), output, False)
    mask = Mask(allowed or EOS_TOKENS)
    if not allowed:
        mask.failure = Failure.DEAD_END if follows else Failure.INTERNAL
    return mask


def _tree_mask(program: Any, output: tuple[int, ...], intersected: bool) -> tuple[frozenset[int], bool]:
    """The tokens allowed, and whether all tokens before were."""
    if isinstance(program, str):
        mask = _leaf_mask(program, output)
        if mask.failure:
            return frozenset(), mask.failure is Failure.DEAD_END
        # Beside others a grammar gives up the canonical token of what it forces: whatever a matcher takes is allowed.
        return frozenset(_tries(program, output) if intersected else mask), True
    [(mode, parts)] = program.items()
    results = [_tree_mask(part, output, intersected or mode == "all") for part in parts]
    allowed = [mask for mask, _ in results]
    if mode == "all":
        return frozenset.intersection(*allowed), all(follows for _, follows in results)
    return frozenset.union(*allowed), any(follows for _, follows in results)


@cache
def _leaf_mask(grammar: str, output: tuple[int, ...]) -> Mask:
    """What a matcher of its own, fed one token after the other, allows after ``output``; EOS alone once it fails."""
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
    mask = None
    if not matcher.is_error() and all(matcher.consume_token(token) for token in output):
        mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.int32)
    if mask is None or matcher.is_error():
        failed = Mask(EOS_TOKENS)
        failed.failure = Failure.INTERNAL if mask is None else Failure.DEAD_END
        return failed
    return Mask(allowed_by(mask))


def allowed_by(mask: NDArray[np.int32]) -> list[int]:
    """The tokens of a mask, bit by bit."""
    return [token for token in range(len(mask) * 32) if int(mask[token // 32]) >> token % 32 & 1]


def text_of(output: Iterable[int]) -> bytes:
    return b"".join(TOKENS[token] for token in output)


def ticket_args(ticket: Ticket) -> dict[str, object]:
    """``SamplingParams.extra_args`` of a constrained request."""
    return {"ananke": list(ticket)}


def guide_of(constraint: Constraint, pool: MatcherPool | None = None) -> Guide:
    """A guide at its start, of a pool of its own where none is given."""
    return Guide.of(MatcherPool(TOKENIZER) if pool is None else pool, constraint.grammar)


def fill(guide: Guide, length: int, newest: int | None = None) -> set[int]:
    """The tokens of a guide's next mask; EOS alone, as its mask process has it, once it has failed. Nothing beside the mask is written."""
    memory = np.full(3 * WORDS, _RUBBISH, dtype=np.int32)
    mask = memory[WORDS : 2 * WORDS]
    if newest is None:
        newest = guide.output[length - 1] if 0 < length <= len(guide.output) else 0
    filled = guide.fill(length, newest, mask.ctypes.data, WORDS)
    assert set(memory[:WORDS]) == set(memory[2 * WORDS :]) == {_RUBBISH}
    assert filled == (not guide.record.failure)
    return set(allowed_by(mask)) if filled else {*EOS_TOKENS}


def mask_of(guide: Guide, *tokens: int) -> set[int]:
    """The tokens that may follow once these have been sampled, one a step."""
    allowed = fill(guide, len(guide.output))
    for token in tokens:
        allowed = fill(guide, len(guide.output) + 1, token)
    return allowed


def tries(constraint: Constraint, output: Sequence[int]) -> frozenset[int]:
    """The tokens that a fresh matcher takes after ``output``, each tried."""
    return _tries(constraint.grammar, tuple(output))


@cache
def _tries(grammar: str, output: tuple[int, ...]) -> frozenset[int]:
    def replayed() -> LLMatcher:
        matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
        assert all(matcher.consume_token(token) for token in output)
        return matcher

    matcher = replayed()
    if matcher.is_stopped():
        return frozenset(token for token in range(VOCABULARY) if replayed().consume_token(token))
    taken = set()
    for token in range(VOCABULARY):
        if matcher.try_consume_tokens([token]):
            taken.add(token)
            assert matcher.rollback(1)
    return frozenset(taken)
