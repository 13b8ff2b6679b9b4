"""RegexError: why a pattern is refused, and where."""

from __future__ import annotations


class RegexError(Exception):
    """A pattern that is malformed, too large, or beyond what is translated exactly."""

    def __init__(self, message: str, offset: int, *, unsupported: bool = False, too_large: bool = False, hint: str | None = None) -> None:
        super().__init__(f"{message} (at character {offset})")
        self.message = message
        self.offset = offset
        """0-based, in characters of the pattern."""
        self.unsupported = unsupported
        """The pattern means something, in this dialect or another one, but is not translated."""
        self.too_large = too_large
        self.hint = hint
