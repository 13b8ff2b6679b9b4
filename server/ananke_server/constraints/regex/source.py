"""Source: a pattern without anchors as Rust regex syntax, over plain text or over the body of a JSON string literal."""

from __future__ import annotations

from functools import lru_cache

from ananke_server.constraints.regex.charclass import SURROGATES, CharClass, Range
from ananke_server.constraints.regex.nodes import Alternation, Anchor, Chars, Concat, Node, Repeat, is_empty

_SHORT_ESCAPES = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r"}
_NAMED = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}
_META = frozenset(r"\.+*?()|[]{}^$/")
_CLASS_META = frozenset(r"\[]^-&~/")
_NOTHING = "[^\\x00-\\x{10FFFF}]"
SPECIALS = CharClass.of((0x00, 0x1F), '"\\')
"""What does not stand for itself in a JSON string."""


def rust_source(node: Node, quoted: bool = False) -> str:
    """The source of a pattern without anchors; ``quoted`` asks for its texts as they stand in JSON string literals."""
    return _alternatives(node, quoted) or "(?:)"


def rust_literal(text: str) -> str:
    """The source that matches just this text; ``(?:)`` for the empty one."""
    return "".join(_escaped(ord(char), _META) for char in text) or "(?:)"


def _alternatives(node: Node, quoted: bool) -> str:
    if isinstance(node, Alternation):
        return "|".join([_sequence(option, quoted) for option in node.options]) or _NOTHING
    return _sequence(node, quoted)


def _sequence(node: Node, quoted: bool) -> str:
    if isinstance(node, Concat):
        return "".join([_term(part, quoted) for part in node.parts])
    return _term(node, quoted)


def _term(node: Node, quoted: bool) -> str:
    if isinstance(node, Repeat):
        return _atom(node.body, quoted) + _quantifier(node.minimum, node.maximum)
    if isinstance(node, Chars) and quoted:
        return _quoted_class(node.members)[0]
    return _atom(node, quoted)


def _atom(node: Node, quoted: bool) -> str:
    if isinstance(node, Anchor):
        raise TypeError("an anchor has no source: resolve anchors first")
    if isinstance(node, Chars):
        if not quoted:
            return class_source(node.members)
        source, is_atom = _quoted_class(node.members)
        return source if is_atom else f"(?:{source})"
    if is_empty(node):
        return "(?:)"
    return f"(?:{_alternatives(node, quoted)})"


def _quantifier(minimum: int, maximum: int | None) -> str:
    simple = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((minimum, maximum))
    if simple is not None:
        return simple
    if maximum is None:
        return f"{{{minimum},}}"
    return f"{{{minimum}}}" if minimum == maximum else f"{{{minimum},{maximum}}}"


@lru_cache(maxsize=1024)
def class_source(members: CharClass) -> str:
    """A class as one atom."""
    code = members.single()
    if code is not None:
        return _escaped(code, _META)
    if members.properties:
        properties = "".join(each.source() for each in sorted(members.properties))
        return f"[{'^' if members.negated else ''}{_range_items(members.ranges)}{properties}]"
    positive, negative = f"[{_range_items(members.ranges)}]", f"[^{_range_items(members.complement().ranges)}]"
    return negative if len(negative) < len(positive) and negative != "[^]" else positive


def _range_items(ranges: tuple[Range, ...]) -> str:
    items = []
    for low, high in _across_surrogates(ranges):
        ends = [_escaped(low, _CLASS_META)] if low == high else [_escaped(low, _CLASS_META), _escaped(high, _CLASS_META)]
        items.append(("-" if high - low > 1 else "").join(ends))
    return "".join(items)


def _across_surrogates(ranges: tuple[Range, ...]) -> list[Range]:
    """Rust's ranges skip the surrogates by themselves."""
    joined: list[Range] = []
    for low, high in ranges:
        if joined and joined[-1][1] == SURROGATES[0] - 1 and low == SURROGATES[1] + 1:
            joined[-1] = (joined[-1][0], high)
        else:
            joined.append((low, high))
    return joined


def _escaped(code: int, meta: frozenset[str]) -> str:
    if code in _NAMED:
        return _NAMED[code]
    if not 0x20 <= code <= 0x7E:
        return f"\\x{code:02X}" if code < 0x80 else f"\\x{{{code:X}}}"
    return f"\\{chr(code)}" if chr(code) in meta else chr(code)


@lru_cache(maxsize=1024)
def _quoted_class(members: CharClass) -> tuple[str, bool]:
    """The source of a class's members in a JSON string literal, and whether it is one atom."""
    specials = [code for low, high in SPECIALS.ranges for code in range(low, high + 1) if members.contains(code)]
    if not specials:
        return class_source(members), True
    escapes = _escapes_source(specials)
    plain = _without_specials(members)
    return (escapes, False) if plain is None else (f"(?:{plain}|{escapes})", True)


def _without_specials(members: CharClass) -> str | None:
    if members.properties:
        return f"[{class_source(members)}&&{class_source(SPECIALS.complement())}]"
    rest = CharClass.union([members.complement(), SPECIALS]).complement()
    return None if rest.is_empty() else class_source(rest)


def _escapes_source(codes: list[int]) -> str:
    """The canonical escapes of special characters: a backslash, then alternatives."""
    short = [_SHORT_ESCAPES.get(code) or chr(code) for code in codes if code in _SHORT_ESCAPES or code > 0x1F]
    hexadecimal = [_hex_digits(row, codes) for row in (0, 1)]
    options = [class_source(CharClass.of("".join(short)))] if short else []
    options += [f"u00{row}{digits}" for row, digits in enumerate(hexadecimal) if digits]
    return "\\\\" + (options[0] if len(options) == 1 else f"(?:{'|'.join(options)})")


def _hex_digits(row: int, codes: list[int]) -> str:
    digits = [f"{code & 0xF:x}" for code in codes if code >> 4 == row and code not in _SHORT_ESCAPES]
    return class_source(CharClass.of("".join(digits), "".join(digits).upper())) if digits else ""
