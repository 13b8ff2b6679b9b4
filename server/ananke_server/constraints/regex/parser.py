"""Parser: a pattern read once from left to right, with a stack of its open groups."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from ananke_server.constraints.regex.ambiguity import counts_run_on
from ananke_server.constraints.regex.casefold import any_case
from ananke_server.constraints.regex.charclass import SURROGATES, CharClass
from ananke_server.constraints.regex.classes import read_class
from ananke_server.constraints.regex.cursor import Cursor
from ananke_server.constraints.regex.dialect import MEANINGS, Dialect
from ananke_server.constraints.regex.errors import RegexError
from ananke_server.constraints.regex.escapes import lone_surrogate, read_escape
from ananke_server.constraints.regex.groups import Flags, read_group
from ananke_server.constraints.regex.nodes import Anchor, Node, Repeat, alternation, chars, concat, repeat

MAX_CHARACTERS = 1 << 16
MAX_NESTING = 50
MAX_REPEAT = 100_000
"""The largest bound of a repetition."""
MAX_NESTED_REPEAT = 10_000
"""The largest product of nested bounds."""
MAX_RUN_ON_REPEAT = 250
"""That product where nothing keeps the turns apart."""
_COUNTS = re.compile(r"\{([0-9]+)(,?)([0-9]*)\}")
_COUNTS_WITHOUT_MINIMUM = re.compile(r"\{,[0-9]+\}")
_SIMPLE_COUNTS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


@dataclass(slots=True)
class _Group:
    opened: int
    flags: Flags
    parts: list[Node] = field(default_factory=list)
    options: list[Node] = field(default_factory=list)

    def next_option(self) -> None:
        self.options.append(concat(self.parts))
        self.parts = []

    def node(self) -> Node:
        self.next_option()
        return alternation(self.options)


class Parser:
    """Reads one pattern. ``parse`` raises ``RegexError``."""

    def __init__(self, pattern: str, dialect: Dialect) -> None:
        self._cursor = Cursor(pattern)
        self._meaning = MEANINGS[dialect]
        self._groups = [_Group(0, Flags())]
        self._repeatable: Node | None = None

    def parse(self) -> Node:
        if len(self._cursor.pattern) > MAX_CHARACTERS:
            raise RegexError(f"the pattern is longer than {MAX_CHARACTERS} characters", MAX_CHARACTERS, too_large=True)
        while not self._cursor.at_end():
            self._step()
        if len(self._groups) > 1:
            hint = "close it with ), or write \\( for a parenthesis itself"
            raise RegexError("the group is not closed", self._groups[-1].opened, hint=hint)
        return self._groups[0].node()

    def _step(self) -> None:
        start = self._cursor.offset
        if self._skips_verbose_text():
            return
        if self._cursor.peek() in "*+?{" and self._quantifier(start):
            return
        char = self._cursor.take()
        match char:
            case "(":
                self._open(start)
            case ")":
                self._close(start)
            case "|":
                self._groups[-1].next_option()
                self._repeatable = None
            case "^" | "$":
                self._anchor(char, start)
            case "\\" if self._cursor.peek() in ("A", "z", "Z"):
                self._add(Anchor("start" if self._cursor.take() == "A" else "end"), repeatable=False)
            case _:
                self._add(chars(self._members(char, start)))

    def _members(self, char: str, start: int) -> CharClass:
        flags = self._groups[-1].flags
        if char == "[":
            return read_class(self._cursor, self._meaning, flags.ignore_case)
        if char == ".":
            return (self._meaning.line_ends if not flags.dot_all else CharClass(())).complement()
        found: int | CharClass = ord(char)
        if char == "\\":
            found = read_escape(self._cursor, self._meaning, in_class=False, ignore_case=flags.ignore_case)
        if isinstance(found, int):
            if SURROGATES[0] <= found <= SURROGATES[1]:
                raise lone_surrogate(start)
            found = CharClass.of(found)
        return any_case(found) if flags.ignore_case and not found.properties else found

    def _skips_verbose_text(self) -> bool:
        if not self._groups[-1].flags.verbose:
            return False
        if self._cursor.skip("#"):
            while self._cursor.take() not in ("", "\n"):
                pass
            return True
        if self._cursor.peek().isspace():
            self._cursor.take()
            return True
        return False

    def _add(self, node: Node, repeatable: bool = True) -> None:
        self._groups[-1].parts.append(node)
        self._repeatable = node if repeatable else None

    def _anchor(self, char: str, start: int) -> None:
        if self._groups[-1].flags.multi_line:
            hint = "drop the flag, or write (?:^|\\n) for the start of a line and (?:$|\\n) for its end"
            raise RegexError(f"{char} under the flag m is not supported", start, unsupported=True, hint=hint)
        self._add(Anchor("start" if char == "^" else "end"), repeatable=False)

    def _open(self, start: int) -> None:
        flags = self._groups[-1].flags
        opened = read_group(self._cursor, self._meaning.dialect, flags)
        if not opened.has_body:
            self._groups[-1].flags = opened.flags
            return
        if len(self._groups) > MAX_NESTING:
            raise RegexError(f"groups are nested more than {MAX_NESTING} deep", start, too_large=True)
        self._groups.append(_Group(start, replace(opened.flags)))
        self._repeatable = None

    def _close(self, start: int) -> None:
        if len(self._groups) == 1:
            raise RegexError("there is no group to close", start, hint="write \\) for a parenthesis itself")
        self._add(self._groups.pop().node())

    def _quantifier(self, start: int) -> bool:
        """Read a quantifier; false where a brace is just a brace."""
        counts = self._counts(start)
        if counts is None:
            return False
        minimum, maximum = counts
        if self._repeatable is None:
            hint = f"write \\{self._cursor.pattern[start]} for the character itself"
            raise RegexError("there is nothing to repeat here", start, hint=hint)
        if maximum is not None and maximum < minimum:
            raise RegexError("the repetition's bounds are out of order", start, hint="put the smaller one first")
        if self._cursor.sees("+") and self._meaning.dialect == "ecma":
            hint = "drop the +: nothing here backtracks"
            raise RegexError("a possessive quantifier is not supported", self._cursor.offset, unsupported=True, hint=hint)
        self._cursor.skip("?")
        self._groups[-1].parts[-1] = self._repeated(self._repeatable, minimum, maximum, start)
        self._repeatable = self._groups[-1].parts[-1] if self._meaning.dialect == "rust" else None
        return True

    def _counts(self, start: int) -> tuple[int, int | None] | None:
        simple = _SIMPLE_COUNTS.get(self._cursor.peek())
        if simple is not None:
            self._cursor.take()
            return simple
        found = self._cursor.match(_COUNTS)
        if found is None:
            if _COUNTS_WITHOUT_MINIMUM.match(self._cursor.pattern, start):
                hint = "write {0,n} for up to n times, or \\{ for a brace itself"
                raise RegexError("{,n} means a repetition to some and plain text to others", start, unsupported=True, hint=hint)
            return None
        if max(len(found[1]), len(found[3])) > len(str(MAX_REPEAT)) + 1:
            raise _too_large(start)
        return int(found[1]), int(found[3]) if found[3] else None if found[2] else int(found[1])

    def _repeated(self, body: Node, minimum: int, maximum: int | None, start: int) -> Node:
        bound = minimum if maximum is None else maximum
        repeated = repeat(body, minimum, maximum)
        if bound > MAX_REPEAT or repeated.weight > MAX_REPEAT:
            raise _too_large(start)
        if bound > 1 and body.weight > 1 and isinstance(repeated, Repeat) and repeated.body is body:
            product = bound * body.weight
            if product > MAX_NESTED_REPEAT or (product > MAX_RUN_ON_REPEAT and counts_run_on(body)):
                raise _too_large(start)
        return repeated


def _too_large(start: int) -> RegexError:
    message = (
        f"the repetition is too large: more than {MAX_REPEAT} times, {MAX_NESTED_REPEAT} with those within it, "
        f"or {MAX_RUN_ON_REPEAT} where nothing ends each turn"
    )
    return RegexError(message, start, too_large=True, hint="lower the bounds, or leave out the upper one")
