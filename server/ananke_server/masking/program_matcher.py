"""Programs at work: a matcher for each leaf, and the leaves' masks intersected and united as the tree says."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from ananke_server.masking.mask_store import WORTH_NS
from ananke_server.masking.matchers import MAX_LEXER_STATES, Kept, MatcherPool, error_text, failure_of, grammar_key
from ananke_server.masking.program import Leaf, Program, from_text
from ananke_server.masking.states import Progress
from ananke_server.masking.tickets import Failure
from ananke_server.masking.tokenizer import eos_mask

T = TypeVar("T")

_UNFORCED = '%llguidance {"no_forcing": true}\n'


def new_program(tokenizer: LLTokenizer, text: str, lexer_states: int = MAX_LEXER_STATES) -> ProgramMatcher:
    """A matcher of its own for a program's text, at its start.

    Costs what compiling each leaf costs, 1 to 3 ms as a rule. Faults show as ``is_error()``, as with ``LLMatcher``.
    """
    return ProgramMatcher.of(MatcherPool(tokenizer, lexer_states=lexer_states), text)


@dataclass(slots=True)
class LeafMatcher:
    """The matcher of one leaf. ``key`` and ``grammar`` name it in the pool."""

    key: str
    grammar: str
    matcher: LLMatcher
    kept: Kept
    """What the matcher is a copy of."""
    optional: bool
    """Whether an ``any`` is above it, so that the output may leave it behind."""
    left_behind: bool = False

    @property
    def alive(self) -> bool:
        """Whether the output so far begins a text of the leaf's grammar."""
        return not self.left_behind and not self.matcher.is_error()

    def follow(self, tokens: Sequence[int], ends: frozenset[int]) -> None:
        """Consume the tokens, or be left behind; unlike ``consume_tokens`` this leads into no error, out of which no reset leads."""
        if not self.alive:
            self.left_behind = True
            return
        rest = tokens[self.matcher.try_consume_tokens(list(tokens)) :]
        self.left_behind = bool(rest) and not (self.matcher.is_stopped() and ends.issuperset(rest))


@dataclass(slots=True)
class ProgramMatcher:
    """A program's leaves, which all consume the same tokens. A single grammar is a program of one leaf."""

    pool: MatcherPool
    program: Program
    leaves: list[LeafMatcher]
    of_schema: bool
    _ends: frozenset[int]
    _faulty: LeafMatcher | None = None
    """A leaf whose grammar has a fault: the others are not left to go on without it."""
    _nothing_in_common: bool = False
    _progress: Progress | None = None
    """Of a single leaf, where its grammar's states can be told apart: slow masks are then kept."""

    @classmethod
    def of(cls, pool: MatcherPool, text: str, *, of_schema: bool = False) -> ProgramMatcher:
        """The program of a text, its leaves taken from the pool. One whose grammar has faults comes in its error state.

        Args:
            of_schema: the text is what the compiler made of a JSON schema. Of these alone slow masks are kept for all in the same state:
                a grammar of a user's own may look the same and mean something else.
        """
        program = from_text(text)
        followed = of_schema and isinstance(program, Leaf)
        taken = ((key, grammar, pool.take(key, grammar, of_schema=followed), optional) for key, grammar, optional in _leaves(program))
        leaves = [LeafMatcher(key, grammar, *matcher, optional) for key, grammar, matcher, optional in taken]
        faulty = next((leaf for leaf in leaves if leaf.matcher.is_error()), None)
        made = cls(pool, program, leaves, followed, frozenset(pool.tokenizer.eos_tokens), faulty)
        made._follow_progress()
        return made

    def fill(self, address: int, words: int) -> None:
        """Write the tokens that may follow to ``[words]`` int32 at an address; EOS alone in the error state, which it may lead into."""
        if isinstance(self.program, Leaf):
            self._fill_leaf(address, 4 * words)
            return
        masks = np.zeros((len(self.leaves), words), dtype=np.int32)
        for leaf, mask in zip(self.leaves, masks, strict=True):
            if not leaf.left_behind:
                leaf.matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        target = np.ctypeslib.as_array((ctypes.c_int32 * words).from_address(address))
        self.combine(masks, target)
        if self.is_error():
            target[:] = eos_mask(self.pool.tokenizer, words)

    def _fill_leaf(self, address: int, size: int) -> None:
        matcher = self.leaves[0].matcher
        key = None if self._progress is None or matcher.is_error() else self._progress.key
        if key is None:
            matcher.unsafe_compute_mask_ptr(address, size)
            return
        masks = self.pool.masks
        assert masks is not None
        if masks.write(key, address):
            return
        # Of this thread's own time: while others compile it may wait long for Python's lock.
        begun = time.thread_time_ns()
        matcher.unsafe_compute_mask_ptr(address, size)
        if time.thread_time_ns() - begun > WORTH_NS and not matcher.is_error():
            masks.keep(key, address)

    def combine(self, masks: NDArray[np.int32], target: NDArray[np.int32]) -> None:
        """Write the program's mask into ``target``. One that allows nothing leads into the error state.

        Args:
            masks: ``[leaves, words]``, the mask of each living leaf; the rows of the others are cleared.
            target: ``[words]``.
        """
        for leaf, mask in zip(self.leaves, masks, strict=True):
            if not leaf.alive:
                mask.fill(0)
        np.copyto(target, _fold(self.program, iter(masks), np.bitwise_and.reduce, np.bitwise_or.reduce))
        self._nothing_in_common = self._holds(_is_alive) and not target.any()

    def consume_tokens(self, tokens: Sequence[int]) -> bool:
        """Advance every leaf. Returns false where the program is in its error state."""
        for leaf in self.leaves:
            if leaf.optional:
                leaf.follow(tokens, self._ends)
            elif len(tokens) == 1:
                leaf.matcher.consume_token(tokens[0])
            else:
                leaf.matcher.consume_tokens(list(tokens))
        if self._progress is not None:
            if self._ends.isdisjoint(tokens):
                self._progress.consume(self.pool.tokenizer.decode_bytes(list(tokens)))
            else:
                self._progress.lose()
        return not self.is_error()

    def compute_bitmask(self) -> bytes:
        """The tokens that may follow, a bit each; may lead into the error state, and is EOS alone there, as with ``LLMatcher``."""
        masks = np.stack([np.frombuffer(leaf.matcher.compute_bitmask(), dtype=np.int32) for leaf in self.leaves])
        mask = np.zeros_like(masks[0])
        self.combine(masks, mask)
        if self.is_error():
            mask |= eos_mask(self.pool.tokenizer, len(mask))
        allowed: bytes = mask.tobytes()
        return allowed

    def is_accepting(self) -> bool:
        """Whether the output so far satisfies the program."""
        return self._holds(lambda leaf: leaf.alive and leaf.matcher.is_accepting())

    def is_error(self) -> bool:
        """Whether nothing can follow any more. ``rewind`` is the only way out, and there is none for a faulty grammar."""
        if isinstance(self.program, Leaf):
            return self.leaves[0].matcher.is_error()
        return self._faulty is not None or self._nothing_in_common or not self._holds(_is_alive)

    def error_text(self) -> str:
        """llguidance's words for why the program is in its error state; empty where it is not."""
        if not self.is_error():
            return ""
        leaf = self._failed_leaf()
        return "NoExtension: the constraints have nothing in common" if leaf is None else error_text(leaf.matcher)

    def failure(self) -> tuple[Failure, str] | None:
        """Why the program is in its error state, None where it is not."""
        if not self.is_error():
            return None
        if (leaf := self._failed_leaf()) is not None:
            return failure_of(leaf.matcher)
        if not self._holds(lambda leaf: not leaf.left_behind):
            return Failure.INTERNAL, "a token was sampled that doesn't satisfy the grammar of any constraint"
        return Failure.DEAD_END, "no token can continue the output within the constraints put together"

    def rewind(self) -> None:
        """Back to the start. Costs about 6 us a leaf; one whose matcher is in its error state gets another one."""
        self._nothing_in_common = False
        for leaf in self.leaves:
            leaf.left_behind = False
            if leaf.matcher.is_error() or not leaf.matcher.reset():
                leaf.matcher, leaf.kept = self.pool.take(leaf.key, leaf.grammar, of_schema=self.of_schema)
        self._follow_progress()

    def _follow_progress(self) -> None:
        leaf = self.leaves[0]
        terminals = leaf.kept.terminals if self.of_schema else None
        self._progress = None if terminals is None else Progress(terminals, leaf.key)

    def retire(self) -> bool:
        """Have the pool compile the leaves' grammars anew for whoever comes next; returns whether one had been used before."""
        worn = [self.pool.retire(leaf.key, leaf.kept) for leaf in self.leaves]
        return any(worn)

    def _failed_leaf(self) -> LeafMatcher | None:
        """A leaf to blame for the error state: a single one, a faulty one, one too complex, but none that others were to outlast."""
        if isinstance(self.program, Leaf):
            return self.leaves[0]
        failed = (leaf for leaf in self.leaves if leaf.matcher.is_error())
        return self._faulty or next((leaf for leaf in failed if failure_of(leaf.matcher)[0] is not Failure.DEAD_END), None)

    def _holds(self, of: Callable[[LeafMatcher], bool]) -> bool:
        return _fold(self.program, map(of, self.leaves), all, any)


def unforced(grammar: str) -> str:
    """The grammar with every tokenization of its texts in the mask.

    Where a grammar leaves one continuation, llguidance admits its canonical token alone. The canonical token of one
    leaf need not be that of another, and two such masks have nothing in common though the languages have.
    """
    if not grammar.lstrip().startswith("{"):
        return _UNFORCED + grammar
    content = json.loads(grammar)
    first = content["grammars"][0]
    if first.get("lark_grammar") is not None:
        first["lark_grammar"] = _UNFORCED + first["lark_grammar"]
    else:
        first["name"] = first.get("name") or "unforced"
        content["grammars"].insert(0, {"lark_grammar": f"{_UNFORCED}start: @{first['name']}"})
    return json.dumps(content)


def is_pooled(pool: MatcherPool, text: str) -> bool:
    """Whether a program's matchers can be had at once."""
    return all(key in pool for key, _, _ in _leaves(from_text(text)))


def _is_alive(leaf: LeafMatcher) -> bool:
    return leaf.alive


def _leaves(program: Program, *, intersected: bool = False, optional: bool = False) -> Iterator[tuple[str, str, bool]]:
    """Of each leaf its grammar's key, the grammar, and whether an ``any`` is above it."""
    if isinstance(program, Leaf):
        grammar = unforced(program.grammar) if intersected else program.grammar
        yield grammar_key(grammar), grammar, optional
        return
    intersected = intersected or program.mode == "all"
    optional = optional or program.mode == "any"
    for part in program.parts:
        yield from _leaves(part, intersected=intersected, optional=optional)


def _fold(program: Program, leaves: Iterator[T], all_of: Callable[[list[T]], T], any_of: Callable[[list[T]], T]) -> T:
    """The value of a tree whose leaves have these values, in the order of the text."""
    if isinstance(program, Leaf):
        return next(leaves)
    parts = [_fold(part, leaves, all_of, any_of) for part in program.parts]
    return all_of(parts) if program.mode == "all" else any_of(parts)
