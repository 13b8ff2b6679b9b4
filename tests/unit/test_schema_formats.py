"""Formats: what masks write for each of them, judged by the validator of finished outputs, which has its own idea of every format."""

from __future__ import annotations

import json
import random

import pytest
from constraint_support import COMPILER, schema
from schema_support import admits, new_matcher

from ananke_server.constraints.schema import schema_grammar
from ananke_server.constraints.schema.formats import ASSERTED
from ananke_server.constraints.verify import fault_of

QUOTE = ord('"')
FAVOURED = (b"", b"-.:/@", b"0123456789", b"[](){}*\\")
SAMPLES = 40

# Of each format strings that people write: a mask has to have them.
COMMON = {
    "date": ["2024-02-29", "0001-01-01"],
    "time": ["08:30:06Z", "08:30:06.283+01:00", "23:59:60Z"],
    "date-time": ["2024-02-29T23:59:59Z", "1990-12-31t23:59:60z", "2020-01-01T00:00:00.5-08:00"],
    "duration": ["P1Y2M3DT4H5M6S", "PT0S", "P1W"],
    "email": ["joe.bloggs+tag@mail.example.com", "a@b", "a@[127.0.0.1]", "x" * 64 + "@example.com"],
    "hostname": ["localhost", "www.example.com", "a" * 63, "x-1.y"],
    "idn-hostname": ["localhost", "bücher.example", "straßen-münchen.de", "실례.테스트", "a" * 63],
    "idn-email": ["жук@example.com", "a.é@x.com"],
    "ipv4": ["0.0.0.0", "255.255.255.255"],
    "ipv6": ["::", "2001:db8::7", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4"],
    "uuid": ["2eb8aa08-aa98-11ea-b4aa-73b441d16380", "2EB8AA08-AA98-11EA-B4AA-73B441D16380"],
    "uri": ["https://example.com/a?b=c#d", "mailto:a@b.c", "urn:isbn:1", "http://[::1]:80/"],
    "uri-reference": ["", "../a", "/a/b?c", "#d", "https://example.com"],
    "iri": ["https://bücher.example/ü?ß#é"],
    "iri-reference": ["", "ü", "../é#ö"],
    "uri-template": ["/users/{id}{?fields,page*}", ""],
    "json-pointer": ["", "/a~1b/0", "/é"],
    "relative-json-pointer": ["0", "2/a", "1#"],
    "regex": ["", "^[a-z]+$", "(a|b)*c{2,}", "^(?:[^@]+)@\\d{2,}$"],
}


def sample(lark: str, choose: random.Random) -> str | None:
    """A random string of a grammar's strings, mostly of one kind of characters; None where it does not come to its end."""
    matcher, output = new_matcher(lark), bytearray()
    favoured, most = choose.choice(FAVOURED), choose.choice((10, 40, 80))
    while not matcher.is_accepting() and len(output) < 400:
        mask = matcher.compute_bitmask()
        assert not matcher.is_error(), bytes(output)
        allowed = [byte for byte in range(256) if mask[byte // 8] >> byte % 8 & 1]
        if QUOTE in allowed and (len(output) > most or choose.random() < 0.06 or len(allowed) == 1):
            byte = QUOTE
        else:
            others = [byte for byte in allowed if byte != QUOTE]
            liked = [byte for byte in others if byte in favoured]
            plain = [byte for byte in others if byte < 128]
            byte = (
                choose.choice(liked)
                if liked and choose.random() < 0.4
                else choose.choice(plain if plain and choose.random() < 0.7 else others)
            )
        output.append(byte)
        assert matcher.consume_token(byte)
    return output.decode() if matcher.is_accepting() else None


def test_the_table_has_every_format() -> None:
    assert COMMON.keys() == ASSERTED.keys()


@pytest.mark.parametrize("name", ASSERTED)
def test_whatever_a_mask_writes_has_the_format(name: str) -> None:
    value = {"type": "string", "format": name}
    lark = schema_grammar(value).lark
    outputs = [output for seed in range(SAMPLES) if (output := sample(lark, random.Random(seed))) is not None]
    assert len(outputs) > SAMPLES // 2
    assert [output for output in outputs if fault_of(schema(value), output) is not None] == []


@pytest.mark.parametrize("name", ASSERTED)
def test_a_mask_has_the_strings_that_people_write(name: str) -> None:
    value = {"type": "string", "format": name}
    assert COMPILER.compile(schema(value)).report.guarantee == "exact"
    lark = schema_grammar(value).lark
    assert [text for text in COMMON[name] if not admits(lark, json.dumps(text, ensure_ascii=False))] == []
    assert [text for text in COMMON[name] if fault_of(schema(value), json.dumps(text)) is not None] == []
