"""Mutants: good constraints made bad in known ways, as the bytes that a client would send."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Any, Final

from corpus import GOOD

HUGE: Final = [10**6, 10**9, 2**31, 2**53 + 1, 2**64, 10**40, -(10**12), 1e308, -1e-300, 0.1, -1, 10**400]
OTHERS: Final[list[Any]] = [None, True, False, 0, -1, 1.5, "", "text", [], {}, [[]], [None], {"a": {}}, ["a", "a"]]
KINDS: Final = ["json_schema", "regex", "choice", "grammar", "token_mask", "composite", "schema", "", "REGEX", "ebnf", None, 7]
REGEXES: Final = [
    *("(", ")", "[", "[z-a]", "a{3,1}", "a**", "+", "\\", "(?P<n", "(?<n>a)(?<n>b)", "\\p{Nope}", "[[:nope:]]", "\\x{110000}", "\\u{D800}"),
    *(
        "(?=a)b",
        "(?!a)",
        "(?<=a)b",
        "(?<!a)b",
        "(a)\\1",
        "\\k<a>",
        "\\bword\\b",
        "a^b",
        "a$b",
        "(?>a)",
        "a++",
        "(?R)",
        "(?1)",
        "\\Ga",
        "[^\\s\\S]",
    ),
    *(
        "(a{1,1000}){1,1000}",
        "(((a+)+)+)+$",
        "a{100000}",
        "(a|b|c|d){500}",
        ".{0,5000}x",
        "[a-z]{1,2000}[a-z]{1,2000}",
        "(?i)\u017fK",
        "\\d\\w\\s",
        "",
    ),
]
GRAMMARS: Final = [
    *(
        "",
        "start",
        "start:",
        "start: a",
        'start: "a',
        "start: /a",
        "start: start",
        'start: start "a"',
        "start: a\na: b\nb: a",
        "start: (",
        "rule: 'a'",
    ),
    *(
        'START: "a"',
        "start: /(?=a)/",
        "start: %json {",
        'start: %json {"type": "nope"}',
        "%ignore /.*/\nstart: A\nA: B\nB: A",
        "start: a{3,1}\na: /a/",
    ),
    *(
        "start: /a/ & /b/",
        '%llguidance {"no_forcing": true}\nstart: /a/',
        "start[max_tokens=3]: /.*/",
        "%import common.WS\nstart: WS",
        "start: <[0-9]>",
    ),
    *(
        "root ::=",
        "root ::= root",
        'root ::= "a',
        "root ::= [z-a]",
        "root ::= a",
        "root ::= [a-z]{100000}",
        "start: " + '"a" ' * 3000,
        "// nothing",
    ),
    "\n".join(["start: r0", *(f'r{number}: "a" r{number + 1}' for number in range(3000)), 'r3000: "z"']),
]
UNICODE: Final = [
    *(
        "\ufeff",
        "\u202e",
        "\u200b",
        "\u0000",
        "\u2028",
        "e\u0301",
        "\U0001f432",
        "\U0010ffff",
        "\ud800",
        "\udc00",
        "\ufffe",
        "İ",
        "ß",
        "ﬀ",
        "\u0661",
    ),
]
BYTES: Final = [
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
    b"\x00",
    b"\xef\xbb\xbf",
    b"\x80",
    b"\x1b[2J",
    b"\x7f",
]


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is sent, and by which mutation it came to be."""

    mutation: str
    data: bytes


def mutants(seed: int) -> Iterator[Mutant]:
    """Mutants without end, the same for a seed and no two alike: every mutation in its share."""
    random, seen = Random(seed), set[bytes]()
    names = list(MUTATIONS)
    weights = [MUTATIONS[name][0] for name in names]
    while True:
        name = random.choices(names, weights)[0]
        data = MUTATIONS[name][1](random)
        if (digest := sha256(data).digest()) not in seen:
            seen.add(digest)
            yield Mutant(name, data)


def _good(random: Random) -> Any:
    return copy.deepcopy(random.choice(GOOD))


def _bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", errors="surrogatepass")


def _places(value: Any, wanted: Callable[[Any], bool]) -> list[tuple[Any, Any]]:
    """Every container and key under which a wanted value lies."""
    found, pending = [], [value]
    while pending:
        container = pending.pop()
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, child in list(items):
            if wanted(child):
                found.append((container, key))
            if isinstance(child, dict | list):
                pending.append(child)
    return found


def _replaced(random: Random, wanted: Callable[[Any], bool], replacement: Callable[[Any], Any]) -> bytes:
    while not (places := _places(value := _good(random), wanted)):
        pass
    container, key = random.choice(places)
    container[key] = replacement(container[key])
    return _bytes(value)


def _as_sent(random: Random) -> bytes:
    return _bytes(_good(random))


def _truncated(random: Random) -> bytes:
    data = _as_sent(random)
    return data[: random.randrange(len(data))]


def _flipped(random: Random) -> bytes:
    data = bytearray(_as_sent(random))
    for _ in range(random.randint(1, 8)):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)


def _spliced(random: Random) -> bytes:
    data, other = _as_sent(random), _as_sent(random)
    cut, begin = random.randrange(len(data)), random.randrange(len(other))
    return data[:cut] + other[begin : begin + random.randint(1, 60)] + data[cut + random.randint(0, 60) :]


def _odd_bytes(random: Random) -> bytes:
    data, place = _as_sent(random), 0
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(data))
        data = data[:place] + random.choice(BYTES) + data[place:]
    return data


def _noise(random: Random) -> bytes:
    return random.randbytes(random.choice([0, 1, 7, 300, 5000]))


def _other_encoding(random: Random) -> bytes:
    text = _as_sent(random).decode("utf-8")
    return text.encode(random.choice(["utf-16", "utf-32", "utf-8-sig", "utf-7"]))


def _wrong_type(random: Random) -> bytes:
    return _replaced(random, lambda _: True, lambda _: random.choice(OTHERS))


def _huge_number(random: Random) -> bytes:
    return _replaced(random, lambda value: isinstance(value, int | float), lambda _: random.choice(HUGE))


def _odd_text(random: Random) -> bytes:
    def replacement(text: str) -> str:
        place = random.randint(0, len(text))
        return text[:place] + random.choice(UNICODE) * random.choice([1, 1, 300]) + text[place:]

    return _replaced(random, lambda value: isinstance(value, str), replacement)


def _missing(random: Random) -> bytes:
    value = _good(random)
    container, key = random.choice(_places(value, lambda _: True))
    del container[key]
    return _bytes(value)


def _unknown_key(random: Random) -> bytes:
    value = _good(random)
    containers = [value, *(container[key] for container, key in _places(value, lambda child: isinstance(child, dict)))]
    key = random.choice(
        ["x", "Type", "x-guidance", "$ref", "$id", "not", "if", "format", "$dynamicRef", "constraints", "lark", "__proto__", ""]
    )
    random.choice(containers)[key] = random.choice([*OTHERS, "#", "#/nope", "http://example.com/s.json", "#/$defs/tree"])
    return _bytes(value)


def _repeated_key(random: Random) -> bytes:
    text = _as_sent(random).decode("utf-8")
    key = random.choice(["type", "schema", "pattern", "grammar", "properties", "mode"])
    return (text[:1] + f'"{key}": {json.dumps(random.choice(OTHERS))}, ' + text[1:]).encode()


def _swapped_kind(random: Random) -> bytes:
    value = _good(random)
    value["type"] = random.choice(KINDS)
    if random.random() < 0.5:
        value |= {key: child for key, child in _good(random).items() if key not in value}
    return _bytes(value)


def _broken_regex(random: Random) -> bytes:
    pattern: str = random.choice(REGEXES)
    if random.random() < 0.4:
        pattern += random.choice(REGEXES)
    return _bytes(
        random.choice(
            [
                {"type": "regex", "pattern": pattern, "dialect": random.choice(["rust", "ecma"])},
                {"type": "json_schema", "schema": {"type": "string", "pattern": pattern}},
                {"type": "json_schema", "schema": {"patternProperties": {pattern: {"type": "integer"}}}, "unsupported": "verify"},
                {"regex_patterns": [pattern, {"pattern": pattern, "flags": random.choice(["i", "q", "ms"])}]},
            ]
        )
    )


def _broken_grammar(random: Random) -> bytes:
    grammar: str = random.choice(GRAMMARS)
    if random.random() < 0.5:
        place = random.randint(0, len(grammar))
        grammar = (
            grammar[:place] + random.choice(['"', "/", "(", ":", "|", "\n", "~", "%", "::=", "$", "🐲", "start: /a/\n"]) + grammar[place:]
        )
    return _bytes({"type": "grammar", "syntax": random.choice(["lark", "gbnf"]), "grammar": grammar})


def _deep(random: Random) -> bytes:
    depth = random.choice([10, 60, 190, 210, 1000, 20_000])
    if depth <= 210 and random.random() < 0.5:
        value: Any = {"type": "integer"}
        for _ in range(depth // 2):
            value = random.choice([{"items": value}, {"properties": {"a": value}}, {"anyOf": [value]}, {"not": value}])
        return _bytes({"type": "json_schema", "schema": value, "unsupported": random.choice(["refuse", "verify"])})
    opening, closing = random.choice([("[", "]"), ('{"a":', "}"), ('{"items":', "}"), ('{"not":', "}")])
    return (f'{{"type": "json_schema", "schema": {opening * depth}1{closing * depth}}}').encode()


def _nested_composite(random: Random) -> bytes:
    value = _good(random)
    for _ in range(random.choice([1, 2, 5, 20, 90])):
        others = [_good(random) for _ in range(random.randint(0, 2))]
        value = {"type": "composite", "mode": random.choice(["all", "any", "sequence", "none"]), "constraints": [value, *others]}
    return _bytes(value)


def _flat(random: Random) -> bytes:
    keys: dict[str, Any] = {
        "json_schema": random.choice([{"type": "integer"}, True, "{}", [], {"type": "nope"}]),
        "grammar": random.choice([*GRAMMARS[:20], 'start: "a"', None]),
        "regex_patterns": random.choice([["a+"], [{"pattern": "b"}], [{}], "a", [1], [], [{"pattern": random.choice(REGEXES)}]]),
        "token_mask": random.choice([{"allowed_tokens": [5]}, {"forbidden_tokens": [10**9]}, {"allowed_tokens": []}, [], {"x": 1}]),
        "token_masks": random.choice([{"allowed_tokens": [-1]}, [{"allowed_tokens": [5, 5]}], 0]),
        "name": random.choice(OTHERS),
        "priority": random.choice([*HUGE, "high"]),
    }
    return _bytes({key: keys[key] for key in random.sample(list(keys), random.randint(0, 4))})


def _giant(random: Random) -> bytes:
    count = random.choice([3_000, 12_000, 60_000])
    names = [f"name_{number}_{random.randrange(10**6)}" for number in range(count)]
    return _bytes(
        random.choice(
            [
                {"type": "choice", "choices": names},
                {"type": "json_schema", "schema": {"enum": names}},
                {"type": "json_schema", "schema": {"type": "object", "properties": {name: {} for name in names}}},
                {"type": "json_schema", "schema": {"anyOf": [{"const": name} for name in names]}},
                {"type": "token_mask", "forbidden": list(range(count))},
                {"type": "regex", "pattern": "|".join(names)},
                {"type": "composite", "mode": "any", "constraints": [{"type": "regex", "pattern": name} for name in names]},
                {"type": "regex", "pattern": "a" * random.choice([10_000, 1_100_000])},
            ]
        )
    )


def _bomb(random: Random) -> bytes:
    size = random.randint(9 * 10**6, 10**9)
    pattern = random.choice(
        [f"(a{{1,{size % 900 + 100}}}){{1,1000}}", f"((a|b){{0,{size % 90 + 10}}}c?){{0,1000}}", f"[^x]*x.{{{size % 400 + 100}}}"]
    )
    tangled: dict[str, Any] = {f"d{number}": {"anyOf": [{"$ref": f"#/$defs/d{number + 1}"}] * 2} for number in range(40)}
    schemas: list[dict[str, Any]] = [
        {"type": "array", random.choice(["minItems", "maxItems", "minContains"]): size},
        {"type": "array", "minItems": size % 9_000 + 900, "items": {"type": "array", "minItems": 9_000}},
        {"type": "string", "minLength": size, "pattern": pattern},
        {"allOf": [{"anyOf": [{"maxLength": number + size % 7}, {"minLength": number}]} for number in range(24)]},
        {"type": "integer", "multipleOf": size | 1, "maximum": 10**15},
        {"type": "object", "properties": {f"p{number}": {} for number in range(24)}, "minProperties": size % 20},
        {"$ref": "#/$defs/d0", "$defs": tangled | {"d40": {"const": size}}},
    ]
    others: list[dict[str, Any]] = [
        {"type": "regex", "pattern": pattern},
        {
            "type": "composite",
            "mode": "all",
            "constraints": [{"type": "regex", "pattern": text} for text in (pattern, f".*b.{{{size % 60}}}")],
        },
        {"type": "grammar", "grammar": f"start: A{{1,{size % 10**5}}}\nA: /{pattern}/\n"},
    ]
    return _bytes(random.choice([*({"type": "json_schema", "schema": schema} for schema in schemas), *others]))


Mutation = Callable[[Random], bytes]
MUTATIONS: Final[dict[str, tuple[float, Mutation]]] = {
    "truncated": (10, _truncated),
    "bytes flipped": (10, _flipped),
    "spliced": (6, _spliced),
    "odd bytes": (8, _odd_bytes),
    "noise": (2, _noise),
    "other encoding": (2, _other_encoding),
    "wrong type": (12, _wrong_type),
    "huge number": (8, _huge_number),
    "odd text": (8, _odd_text),
    "missing part": (7, _missing),
    "unknown key": (7, _unknown_key),
    "repeated key": (4, _repeated_key),
    "swapped kind": (5, _swapped_kind),
    "broken regex": (10, _broken_regex),
    "broken grammar": (9, _broken_grammar),
    "deep": (4, _deep),
    "nested composite": (5, _nested_composite),
    "flat form": (6, _flat),
    "giant": (0.6, _giant),
    "bomb": (0.8, _bomb),
    "unchanged": (3, _as_sent),
}
"""Each mutation by its name, with its share."""
