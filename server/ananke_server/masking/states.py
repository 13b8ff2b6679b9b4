"""States: when two outputs under one grammar have the same mask ahead of them, though llguidance does not tell.

Of the grammars that JSON schemas become, every terminal is a whole string, a whole number or word, or one of JSON's marks. So what may
follow an output depends on the terminals that its strings and numbers match, and not on what is in them; and within a string on
how many characters it has, once it is no beginning of a literal any more. That is a state's key. Grammars of another form have none.

Masks near the end of a bounded string cost a millisecond each, since most of the vocabulary has to be walked for what is just too long;
keys are what such a mask is kept by, for all requests.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from ananke_server.masking.adjacency import may_meet
from ananke_server.masking.mask_store import KEY_BYTES

_MOST_TEXT = 1 << 16
_MOST_DIGESTS = 1 << 13
_MOST_SORTS = 64
"""Of scalars, and of sorts of characters: all of them are tried whenever one has come, while other requests' masks wait."""
_LONGEST_SCALAR = 64
_LONGEST_BEGINNING = 256
_MOST_SCALARS_KNOWN = 1024
_QUOTE, _BACKSLASH = b'"\\'
_SPACES = b" \n\r\t"
_SCALAR_BYTES = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-.")

# The forms that are known. They are those that the schema compiler writes; whatever else there may be in a grammar has none of them.
_RULE = re.compile(r"([a-z]\w*): ([\w(){},|?*+ ]*)")
_TERMINAL = re.compile(r"([A-Z]\w*): (.+)")
_LITERAL = r'"(?:[^"\\]|\\.)*"'
_TERM = re.compile(rf"/(?:[^/\\]|\\.)+/|~\({_LITERAL}(?: \| {_LITERAL})*\)")
_MARK = re.compile(r"(?:\[ \\n\\r\\t\]\*)?\\[\[\]{}:,](?:\[ \\n\\r\\t\]\*)?")
# A range is of digits or of letters: one from a sign or a digit to a letter has other characters in it.
_SCALAR_CLASS = r"\[-?(?:[0-9]-[0-9]|[a-z]-[a-z]|[A-Z]-[A-Z]|[0-9A-Za-z+])*-?\]"
_SCALAR = re.compile(rf"(?:[0-9A-Za-z\-|*?+)]|\(\?:|\{{\d+(?:,\d*)?\}}|\\\.|{_SCALAR_CLASS})+")
_CLASS = r"\[(?:[^\[\]\\&~\"]|\\[\\\"\-\]\[^.\/]|\\x[0-9A-Fa-f]{2}|\")+\]"
_ESCAPE = r'(?:\[["\\/bfnrt]+\]|u00[01]\[[0-9A-Fa-f\-]+\])'
_ESCAPES = rf"\\\\\(\?:{_ESCAPE}(?:\|{_ESCAPE})*\)"
_COUNTED = re.compile(
    rf'"(?:\(\?:)?(?:(?P<bare>{_CLASS})|\(\?:(?P<plain>{_CLASS})\|(?P<escapes>{_ESCAPES})\))'
    r'(?:\{(?P<least>\d+)(?P<range>,(?P<most>\d*))?\}|(?P<any>[*+]))\)?"'
)
_BOUNDED = re.compile(r'\{\d+(?:,\d+)?\}\)?"/')


@dataclass(frozen=True, slots=True)
class Characters:
    """What bounded strings are made of: a class of characters, and perhaps escapes."""

    plain: re.Pattern[str]
    """Any number of characters of the class."""
    escaped: re.Pattern[str] | None
    """One character or escape."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """A string terminal: how many characters it takes."""

    terminal: int
    least: int
    most: int | None
    excluded: frozenset[bytes]
    """Strings that it does not take, without their quotes."""

    def admit(self, length: int, content: bytes | None) -> bool:
        """Whether it takes a string of so many of its characters; ``content`` None where it is no literal."""
        return self.least <= length and (self.most is None or length <= self.most) and content not in self.excluded


@dataclass
class Terminals:
    """A grammar's terminals, each by its number, as far as they tell states apart."""

    literals: dict[bytes, set[int]] = field(default_factory=dict)
    """By the text of a string literal, without its quotes."""
    strings: dict[Characters, list[Bounds]] = field(default_factory=dict)
    words: dict[bytes, set[int]] = field(default_factory=dict)
    """By the text of a literal that is no string."""
    scalars: list[tuple[int, LLMatcher]] = field(default_factory=list)
    """Numbers and words, each with a matcher of bytes. Python's own expressions may take for ever, and these come from requests."""
    _known_scalars: dict[bytes, frozenset[int] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, grammar: str) -> Terminals | None:
        """Those of a grammar; None where it has another form, or no bounded strings, of which alone masks are worth keeping."""
        if len(grammar) > _MOST_TEXT or _BOUNDED.search(grammar) is None:
            return None
        terminals, rules, numbers = cls(), dict[str, str](), dict[str, int]()
        try:
            for number, line in enumerate(grammar.splitlines()):
                if (rule := _RULE.fullmatch(line)) is not None:
                    rules[rule[1]] = rule[2]
                elif (terminal := _TERMINAL.fullmatch(line)) is None:
                    return None
                elif all(terminals._take(number, terms) for terms in _alternatives(terminal[2])):
                    numbers[terminal[1]] = number
                else:
                    return None
            if len(terminals.strings) > _MOST_SORTS:
                return None
            scalars = {number for number, _ in terminals.scalars}.union(*terminals.words.values())
            # Of two side by side nobody could say where the first ends.
            if may_meet(rules, {name: number in scalars for name, number in numbers.items()}):
                return None
        except (re.error, ValueError, RecursionError):
            return None
        return terminals if any(one.most is not None for bounds in terminals.strings.values() for one in bounds) else None

    def _take(self, number: int, terms: list[str]) -> bool:
        """Note one alternative of a terminal, terms that all hold; false where its form is unknown."""
        if len(terms) == 1 and terms[0].startswith('"'):
            text = json.loads(terms[0]).encode()
            if (content := _unquoted(text)) is None and not _SCALAR_BYTES.issuperset(text):
                return False
            known, key = (self.words, text) if content is None else (self.literals, content)
            known.setdefault(key, set()).add(number)
            return True
        excluded: frozenset[bytes] = frozenset()
        if len(terms) == 2 and terms[1].startswith("~"):
            texts = [_unquoted(json.loads(text).encode()) for text in re.findall(_LITERAL, terms.pop())]
            if None in texts:
                return False
            excluded = frozenset(text for text in texts if text is not None)
        if not all(term.startswith("/") for term in terms):
            return False
        expressions = [term[1:-1] for term in terms]
        if len(terms) == 1 and not excluded and _MARK.fullmatch(expressions[0]):
            return True
        if len(terms) == 1 and (counted := _COUNTED.fullmatch(expressions[0])):
            return self._take_string(number, counted, excluded)
        if not excluded and len(self.scalars) < _MOST_SORTS and all(map(_SCALAR.fullmatch, expressions)):
            grammar = LLMatcher.grammar_from_lark(f"start: T\nT: {' & '.join(terms)}")
            matcher = LLMatcher(_bytes(), grammar, log_level=0)
            self.scalars.append((number, matcher))
            return not matcher.is_error()
        return False

    def _take_string(self, number: int, counted: re.Match[str], excluded: frozenset[bytes]) -> bool:
        characters = counted["bare"] or counted["plain"]
        # In Rust's classes -- is a difference.
        if "--" in characters or re.compile(characters).search('"\\'):
            return False
        escaped = None if counted["escapes"] is None else re.compile(f"{characters}|{counted['escapes']}")
        most = None if counted["any"] or (counted["range"] and not counted["most"]) else int(counted["most"] or counted["least"])
        bounds = Bounds(number, int(counted["least"] or (counted["any"] == "+")), most, excluded)
        self.strings.setdefault(Characters(re.compile(f"(?:{characters})*"), escaped), []).append(bounds)
        return True

    def begins_literal(self, content: bytes) -> bool:
        """Whether a string that is told from others by its text begins so, or is it."""
        place = bisect_left(self._told_apart, content)
        return place < len(self._told_apart) and self._told_apart[place].startswith(content)

    @cached_property
    def _told_apart(self) -> list[bytes]:
        excluded = (text for bounds in self.strings.values() for one in bounds for text in one.excluded)
        return sorted({*self.literals, *excluded})

    @cached_property
    def horizon(self) -> int:
        """A count of characters from which on all counts are alike."""
        return 1 + max(max(one.least, one.most or 0) for bounds in self.strings.values() for one in bounds)

    def of_scalar(self, text: bytes) -> frozenset[int] | None:
        """The terminals that match a whole number or word; None where it is not known."""
        if len(text) > _LONGEST_SCALAR:
            return None
        if text not in self._known_scalars:
            if len(self._known_scalars) >= _MOST_SCALARS_KNOWN:
                self._known_scalars.clear()
            self._known_scalars[text] = self._of_new_scalar(text)
        return self._known_scalars[text]

    def _of_new_scalar(self, text: bytes) -> frozenset[int] | None:
        matching = {number for number, matcher in self.scalars if _matches(matcher, text)}
        # A matcher that gives up says of nothing any more whether it matches.
        if any(matcher.is_error() for _, matcher in self.scalars):
            return None
        return frozenset(matching | self.words.get(text, set()))

    @cached_property
    def sorts(self) -> list[tuple[Characters, list[Bounds]]]:
        """The sorts of characters, and the terminals of each."""
        return list(self.strings.items())

    def of_string(self, content: bytes | None, lengths: Iterable[tuple[int, int]]) -> frozenset[int]:
        """The terminals that match a whole string.

        Args:
            content: without its quotes; None where it is no literal.
            lengths: the sorts of characters that it may be made of, and of how many.
        """
        matching = set(() if content is None else self.literals.get(content, ()))
        for sort, length in lengths:
            matching.update(one.terminal for one in self.sorts[sort][1] if one.admit(length, content))
        return frozenset(matching)

    def lengths(self, content: bytes) -> list[tuple[int, int]]:
        """Of which sorts of characters a whole string is, and of how many; an escape is one."""
        text = content.decode()
        counted = ((sort, _length(characters, text)) for sort, (characters, _) in enumerate(self.sorts))
        return [(sort, length) for sort, length in counted if length is not None]


@lru_cache(maxsize=1)
def _bytes() -> LLTokenizer:
    return LLTokenizer("byte")


def _matches(matcher: LLMatcher, text: bytes) -> bool:
    return matcher.reset() and matcher.try_consume_tokens(list(text)) == len(text) and matcher.is_accepting()


def _alternatives(body: str) -> Iterator[list[str]]:
    """A terminal's alternatives, each the terms that have to match together.

    Raises:
        ValueError: it has another form.
    """
    terms, position = [], 0
    while True:
        if body.startswith('"', position):
            _, end = json.JSONDecoder().raw_decode(body, position)
        elif (term := _TERM.match(body, position)) is not None:
            end = term.end()
        else:
            raise ValueError(body)
        terms.append(body[position:end])
        operator, position = body[end : end + 3], end + 3
        if operator == " & ":
            continue
        yield terms
        terms = []
        if not operator:
            return
        if operator != " | ":
            raise ValueError(body)


def _unquoted(text: bytes) -> bytes | None:
    """What is between the quotes of a JSON string, with nothing around them; None where it is none."""
    try:
        # As text: of bytes json would guess the encoding.
        is_string = text.startswith(b'"') and text.endswith(b'"') and isinstance(json.loads(text.decode()), str)
    except ValueError:
        return None
    return text[1:-1] if is_string else None


def _length(characters: Characters, text: str) -> int | None:
    """The characters of a string, an escape being one; None where it has others."""
    if characters.plain.fullmatch(text):
        return len(text)
    if characters.escaped is None:
        return None
    atoms = characters.escaped.findall(text)
    return len(atoms) if sum(map(len, atoms)) == len(text) else None


class Progress:
    """How far one output has come, by its bytes."""

    def __init__(self, terminals: Terminals, grammar: str) -> None:
        """``grammar``: its name, which no other has, and the same in every process."""
        self._terminals = terminals
        self._all = tuple(range(len(terminals.sorts)))
        self._history = _digest((grammar,))
        self._scalar = b""
        self._spaced = self._in_string = self._lost = False

    @property
    def key(self) -> bytes | None:
        """``KEY_BYTES`` of what outputs with the same masks ahead have in common; None where it is not known."""
        if self._lost or (self._in_string and self._has_escapes):
            return None
        if not self._in_string:
            return _digest((self._history, self._scalar)) if len(self._scalar) <= _LONGEST_SCALAR else None
        if self._is_beginning:
            return _digest((self._history, bytes(self._content), True)) if len(self._content) <= _LONGEST_BEGINNING else None
        return _digest((self._history, min(self._count, self._terminals.horizon), self._partial, self._alive))

    def lose(self) -> None:
        """There are no more keys."""
        self._lost = True

    def consume(self, data: bytes) -> None:
        """The output goes on."""
        position = 0
        while position < len(data) and not self._lost:
            position = self._within(data, position) if self._in_string else self._between(data, position)

    def _between(self, data: bytes, position: int) -> int:
        byte = data[position]
        if byte in _SCALAR_BYTES:
            self._scalar += data[position : position + 1]
            self._spaced = False
            return position + 1
        if self._scalar:
            self._add(self._terminals.of_scalar(self._scalar))
            self._scalar = b""
        if byte == _QUOTE:
            self._in_string, self._is_beginning, self._has_escapes, self._in_escape = True, True, False, False
            self._content, self._count, self._partial, self._alive = bytearray(), 0, b"", self._all
        elif byte not in _SPACES:
            self._add(byte)
        elif not self._spaced:
            # Where white space may stand, one is as good as many.
            self._add(_SPACES)
        self._spaced = byte in _SPACES
        return position + 1

    def _within(self, data: bytes, position: int) -> int:
        end = self._end(data, position)
        piece = data[position : len(data) if end is None else end]
        self._content += piece
        if not self._has_escapes:
            self._note(piece)
        if end is None:
            return len(data)
        self._in_string = False
        self._add(self._string())
        return end + 1

    def _string(self) -> frozenset[int]:
        """The terminals that match the string that has just ended."""
        if self._has_escapes:
            content = bytes(self._content)
            try:
                return self._terminals.of_string(content, self._terminals.lengths(content))
            except UnicodeDecodeError:
                return frozenset()
        lengths = [] if self._partial else [(sort, self._count) for sort in self._alive]
        return self._terminals.of_string(bytes(self._content) if self._is_beginning else None, lengths)

    def _end(self, data: bytes, position: int) -> int | None:
        """Where the string ends, if it does."""
        if not self._has_escapes:
            end = data.find(b'"', position)
            if data.find(b"\\", position, None if end < 0 else end) < 0:
                return None if end < 0 else end
            self._has_escapes = True
        for index in range(position, len(data)):
            if self._in_escape:
                self._in_escape = False
            elif data[index] == _BACKSLASH:
                self._in_escape = True
            elif data[index] == _QUOTE:
                return index
        return None

    def _note(self, piece: bytes) -> None:
        """More of a string without escapes: its characters, and of which sorts all of them are."""
        buffer = self._partial + piece
        try:
            text, taken = codecs.utf_8_decode(buffer, "strict", False)
        except UnicodeDecodeError:
            self._lost = True
            return
        self._partial = buffer[taken:]
        self._count += len(text)
        sorts = self._terminals.sorts
        self._alive = tuple(sort for sort in self._alive if sorts[sort][0].plain.fullmatch(text))
        self._is_beginning = self._is_beginning and self._terminals.begins_literal(bytes(self._content))

    def _add(self, part: bytes | int | frozenset[int] | None) -> None:
        # What no terminal matches cannot be; if it is, or nobody knows which do, nothing is known of the rest.
        if part is None or part == frozenset():
            self._lost = True
        self._history = _digest((self._history, tuple(sorted(part)) if isinstance(part, frozenset) else part))


@lru_cache(maxsize=_MOST_DIGESTS)
def _digest(parts: tuple[Any, ...]) -> bytes:
    """Of texts, bytes, numbers and tuples of numbers: the same in every process, and of no others."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=KEY_BYTES).digest()
