"""Cursor: a place in a pattern."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(slots=True)
class Cursor:
    """A pattern and the offset of what comes next."""

    pattern: str
    offset: int = 0

    def at_end(self) -> bool:
        return self.offset >= len(self.pattern)

    def peek(self) -> str:
        """The next character, or ``""`` at the end."""
        return self.pattern[self.offset : self.offset + 1]

    def take(self) -> str:
        char = self.peek()
        self.offset += len(char)
        return char

    def sees(self, text: str) -> bool:
        return self.pattern.startswith(text, self.offset)

    def skip(self, text: str) -> bool:
        """Step over ``text`` where it comes next."""
        if not self.sees(text):
            return False
        self.offset += len(text)
        return True

    def match(self, expression: re.Pattern[str]) -> re.Match[str] | None:
        """Step over what an expression matches here."""
        found = expression.match(self.pattern, self.offset)
        if found:
            self.offset = found.end()
        return found
