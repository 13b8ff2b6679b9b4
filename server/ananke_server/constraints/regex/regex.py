"""Regex: one parsed pattern, and everything that is asked of it."""

from __future__ import annotations

from functools import cached_property

from ananke_server.constraints.regex.anchors import resolve_full, resolve_search
from ananke_server.constraints.regex.dialect import Dialect
from ananke_server.constraints.regex.matching import matches_whole, matches_within
from ananke_server.constraints.regex.nodes import Node, is_nothing
from ananke_server.constraints.regex.parser import Parser
from ananke_server.constraints.regex.source import rust_source
from ananke_server.constraints.regex.texts import texts_of


def parse_regex(pattern: str, dialect: Dialect = "ecma") -> Regex:
    """Parse a pattern in time linear in its length.

    Raises ``RegexError`` with the place, and with ``unsupported`` or ``too_large`` set where that is why.
    """
    return Regex(pattern, dialect, Parser(pattern, dialect).parse())


class Regex:
    """A pattern's two languages: the texts that it matches wholly, and those in which it matches somewhere.

    Sources are Rust regex syntax whose whole match is meant: no anchors, flags or lookaround, and ready to stand between the slashes of
    a Lark terminal. The ``quoted`` ones are over the body of a JSON string literal (see ``quoting``). Anchors can make a language too
    large to write down: any method that writes or lists one raises ``RegexError`` then.
    """

    def __init__(self, pattern: str, dialect: Dialect, node: Node) -> None:
        self.pattern = pattern
        self.dialect = dialect
        self._node = node

    def full(self) -> str:
        return rust_source(self._full)

    def search(self) -> str:
        return rust_source(self._search)

    def quoted_full(self) -> str:
        return rust_source(self._full, quoted=True)

    def quoted_search(self) -> str:
        return rust_source(self._search, quoted=True)

    def fullmatches(self, text: str) -> bool:
        """Polynomial in the text's length whatever the pattern: nothing backtracks."""
        return matches_whole(self._node, text)

    def searches(self, text: str) -> bool:
        """As ``fullmatches``."""
        return matches_within(self._node, text)

    def finite(self, limit: int) -> list[str] | None:
        """All texts matched wholly where there are at most ``limit``, each once."""
        return texts_of(self._full, limit)

    def finite_search(self, limit: int) -> list[str] | None:
        """All texts matched somewhere where there are at most ``limit``, which takes anchors at both ends."""
        return texts_of(self._search, limit)

    def matches_nothing(self) -> bool:
        """Whether both languages are empty, as those of ``a^b`` and ``[]`` are."""
        return is_nothing(self._full)

    @cached_property
    def _full(self) -> Node:
        return resolve_full(self._node)

    @cached_property
    def _search(self) -> Node:
        return resolve_search(self._node)
