"""Reader of GBNF text: rules of characters, references, groups and repetitions, as llama.cpp's grammar parser takes them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from ananke_client.errors import ErrorCode
from ananke_server.constraints.lark_tokens import place_of
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.refusal import Refusal, refuse
from ananke_server.constraints.regex.charclass import ANY, CharClass

MAX_GROUPS = 20
"""Groups within groups: llguidance's reader of Lark takes 30."""

_BLANK = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_BOUNDS = re.compile(r"\{\s*(\d+)\s*(,\s*(\d+)?)?\s*\}")
_SPECIAL = re.compile(r"(!?)<(?:\[(\d+)\]|([^<>\s\[\]]+))>")
_ESCAPE = re.compile(r'\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([trn\\"\[\]-]))')
_SHORT_ESCAPES = {"t": "\t", "r": "\r", "n": "\n"}


@dataclass(frozen=True, slots=True)
class Characters:
    """One character."""

    members: CharClass


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """One token, in Lark's notation."""

    lark: str


@dataclass(frozen=True, slots=True)
class Reference:
    name: str
    offset: int


@dataclass(frozen=True, slots=True)
class Sequence:
    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Repetition:
    body: Expression
    least: int
    most: int | None


Expression = Characters | SpecialToken | Reference | Sequence | Choice | Repetition


@dataclass(frozen=True, slots=True)
class Rule:
    body: Expression
    offset: int


class Reader:
    """Reads one grammar's text, from its beginning."""

    def __init__(self, text: str, limits: Limits) -> None:
        self._text = text
        self._limits = limits
        self._at = 0
        self._groups = 0

    def rules(self) -> dict[str, Rule]:
        """The rules by name.

        Raises:
            Refusal: the text is no GBNF or beyond the limits, with line and column of the first fault.
        """
        rules: dict[str, Rule] = {}
        self._skip(_BLANK_LINES)
        while self._at < len(self._text):
            offset = self._at
            name = self._expect(_NAME, "the name of a rule")
            if name in rules:
                self._fail(f"the rule {name[:80]!r} is defined twice", at=offset, hint="join the definitions with '|'")
            if len(rules) == self._limits.rules:
                self._fail(f"more than {self._limits.rules:,} rules", at=offset, code=ErrorCode.CONSTRAINT_TOO_LARGE)
            self._skip(_BLANK)
            if not self._text.startswith("::=", self._at):
                self._fail("'::=' expected", hint="a rule is name ::= expression")
            self._at += 3
            self._skip(_BLANK_LINES)
            rules[name] = Rule(self._choice(), offset)
            if self._peek() not in ("", "\r", "\n"):
                self._fail(f"{self._peek()!r} is not expected here")
            self._skip(_BLANK_LINES)
        return rules

    def _choice(self) -> Expression:
        options = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            self._skip(_BLANK_LINES)
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self) -> Expression:
        parts: list[Expression] = []
        while (part := self._part()) is not None:
            self._blank()
            parts.append(self._repeated(part))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _part(self) -> Expression | None:
        match self._peek():
            case '"':
                return self._literal()
            case "[":
                return self._class()
            case "(":
                return self._group()
            case ".":
                self._at += 1
                return Characters(ANY)
            case "<" | "!":
                return self._special()
            case "*" | "+" | "?" | "{":
                self._fail("there is nothing to repeat")
        if found := _NAME.match(self._text, self._at):
            self._at = found.end()
            return Reference(found[0], found.start())
        return None

    def _repeated(self, part: Expression) -> Expression:
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        while (mark := self._peek()) and mark in "*+?{":
            least, most = self._bounds() if mark == "{" else simple[mark]
            self._at += mark != "{"
            part = Repetition(part, least, most)
            self._blank()
        return part

    def _bounds(self) -> tuple[int, int | None]:
        offset = self._at
        found = _BOUNDS.match(self._text, self._at)
        if found is None:
            self._fail("a repetition is {m}, {m,} or {m,n}")
        if max(len(found[1]), len(found[3] or "")) > 9 or max(int(found[1]), int(found[3] or 0)) > self._limits.array_bound:
            message = f"more than {self._limits.array_bound:,} repetitions"
            self._fail(message, at=offset, code=ErrorCode.CONSTRAINT_TOO_LARGE)
        self._at = found.end()
        least = int(found[1])
        most = least if found[2] is None else int(found[3]) if found[3] else None
        if most is not None and most < least:
            self._fail(f"{{{least},{most}}} is empty: the lower bound is above the upper", at=offset)
        return least, most

    def _literal(self) -> Expression:
        opening = self._at
        self._at += 1
        characters: list[Expression] = []
        while self._peek() != '"':
            characters.append(Characters(CharClass.of(self._character(opening))))
        self._at += 1
        return characters[0] if len(characters) == 1 else Sequence(tuple(characters))

    def _class(self) -> Expression:
        opening = self._at
        self._at += 1
        negated = self._peek() == "^"
        self._at += negated
        members: list[int | tuple[int, int]] = []
        while self._peek() != "]":
            offset = self._at
            low = self._character(opening)
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high = self._character(opening)
                if high < low:
                    self._fail("the range is empty: its ends are in reverse order", at=offset)
                members.append((low, high))
            else:
                members.append(low)
        self._at += 1
        if not members:
            self._fail("the class has no members", at=opening, hint="'.' is any character")
        found = CharClass.of(*members)
        found = found.complement() if negated else found
        if found.is_empty():
            self._fail("no character is in the class", at=opening)
        return Characters(found)

    def _character(self, opening: int) -> int:
        if self._peek() == "":
            self._fail(f"{self._text[opening]} is not closed", at=opening)
        if self._peek() != "\\":
            self._at += 1
            return ord(self._text[self._at - 1])
        offset = self._at
        found = _ESCAPE.match(self._text, self._at)
        if found is None:
            self._fail("unknown escape", hint=r"the escapes are \n \r \t \\ \" \[ \] \- \xHH \uHHHH \UHHHHHHHH")
        self._at = found.end()
        if found[4]:
            return ord(_SHORT_ESCAPES.get(found[4], found[4]))
        code = int(found[1] or found[2] or found[3], 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            self._fail("the escape is of no character", at=offset)
        return code

    def _group(self) -> Expression:
        opening = self._at
        self._at += 1
        self._groups += 1
        if self._groups > MAX_GROUPS:
            self._fail(f"more than {MAX_GROUPS} groups within each other", at=opening, code=ErrorCode.CONSTRAINT_TOO_LARGE)
        self._skip(_BLANK_LINES)
        body = self._choice()
        if self._peek() != ")":
            self._fail("( is not closed", at=opening)
        self._at += 1
        self._groups -= 1
        return body

    def _special(self) -> Expression:
        found = _SPECIAL.match(self._text, self._at)
        if found is None:
            self._fail("a token is <[id]> or <name>")
        if found[1] and not found[2]:
            message = "a negated token is taken by its id only"
            self._fail(message, code=ErrorCode.UNSUPPORTED_CONSTRAINT, hint="write !<[id]>")
        self._at = found.end()
        return SpecialToken(f"<[{'^' if found[1] else ''}{int(found[2])}]>" if found[2] else f"<{found[3]}>")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self, blank: re.Pattern[str]) -> None:
        found = blank.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _blank(self) -> None:
        """Newlines separate rules, save within groups."""
        self._skip(_BLANK_LINES if self._groups else _BLANK)

    def _expect(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            self._fail(f"{what} expected")
        self._at = found.end()
        return found[0]

    def _fail(
        self, message: str, *, at: int | None = None, code: ErrorCode = ErrorCode.INVALID_CONSTRAINT, hint: str | None = None
    ) -> NoReturn:
        line, column = place_of(self._text, self._at if at is None else at)
        refusal: Refusal = refuse(code, message, pointer="/grammar", line=line, column=column, hint=hint)
        raise refusal
