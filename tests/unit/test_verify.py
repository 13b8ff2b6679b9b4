"""The validator of finished outputs: judged against tables of the RFCs, ``jsonschema``, and what a hostile schema must not do to us."""

import json
import os
import socket
import string
import subprocess
import sys
import time

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import SOON

from ananke_client.constraint import ConstraintSpec, JsonSchemaConstraint
from ananke_server.constraints.schema.formats import ASSERTED
from ananke_server.constraints.verify import ASSERTED_FORMATS, fault_of
from ananke_server.judging.ecma import UntranslatableError, translated
from ananke_server.judging.judge import judge_of
from ananke_server.judging.process import JudgeDied, JudgeProcess
from ananke_server.judging.validator import KNOWN_FORMATS, Validator
from ananke_server.judging.weight import weight_of

DRAFTS = {
    "4": "http://json-schema.org/draft-04/schema#",
    "6": "http://json-schema.org/draft-06/schema#",
    "7": "http://json-schema.org/draft-07/schema#",
    "2019-09": "https://json-schema.org/draft/2019-09/schema",
    "2020-12": "https://json-schema.org/draft/2020-12/schema",
}

UUID = "2eb8aa08-aa98-11ea-b4aa-73b441d16380"

# Strings that the RFC of each format allows, and strings that it does not.
FORMATS = {
    "date-time": (
        [
            *("1985-04-12T23:20:50.52Z", "1990-12-31T23:59:60Z", "1990-12-31T15:59:60-08:00", "1985-04-12t23:20:50z"),
            *("0000-01-01T00:00:00Z", "2020-01-01T00:00:00-00:00", "2020-01-01T00:00:00.123456789012345678901234567890Z"),
        ],
        [
            *("1985-04-12 23:20:50Z", "1985-04-12T23:20:50", "1985-02-30T00:00:00Z", "2020-01-01T24:00:00Z", "2020-01-01T23:60:00Z"),
            *("2020-01-01T12:00:60Z", "2020-01-01T00:00:00+24:00", "2020-01-01T00:00:00+0100", "2020-1-01T00:00:00Z"),
        ],
    ),
    "date": (
        ["2020-02-29", "0000-02-29", "9999-12-31", "2000-02-29", "0001-01-01"],
        ["2019-02-29", "1900-02-29", "2020-2-1", "2020-00-01", "2020-13-01", "2020-04-31", "20200101", "2020-01-01\n", "2020-01-0\u0661"],
    ),
    "time": (
        ["08:30:06Z", "23:59:60Z", "01:29:60+01:30", "22:59:60-01:00", "08:30:06.283185Z", "08:30:06z", "12:00:00-23:59"],
        ["22:59:60Z", "24:00:00Z", "08:30:06", "08:30Z", "8:30:06Z", "08:60:00Z", "08:30:06.Z", "08:30:06+24:00", "01:29:60+02:30"],
    ),
    "duration": (
        ["P1Y", "P1Y2M3D", "P1YT1H", "PT1H1M1S", "P1W", "P4DT12H30M5S", "P1M", "PT1M", "P0D", "P99999999999999999999Y"],
        ["P", "PT", "P1YT", "P1D2H", "P1W1D", "P1Y1D", "PT1H1S", "1Y", "P1", "p1y", "P1.5D", "PT0.5S", "P2D1Y", "", "P1H", "P\u0661D"],
    ),
    "email": (
        ["a@b", "joe.bloggs@example.com", '"joe bloggs"@example.com', '"joe@b"@x.com', "!#$%&'*+-/=?^_`{|}~@x.com", "joe@[127.0.0.1]"],
        ["2962", ".a@x.com", "a.@x.com", "a..b@x.com", "a@", "@b", "a b@c.com", "joe <joe@x.com>", "a@-b.com", "a@b..com", "<a@b.com>"],
    ),
    "hostname": (
        ["a", "www.example.com", "xn--4gbwdl.xn--wgbh1c", "a-b", "1", "123.com", "a" * 63, "A.B"],
        ["", "-a", "a-", "a..b", ".a", "a_b", "a" * 64, "é.com", "a b", "a\n"],
    ),
    "ipv4": (
        ["0.0.0.0", "255.255.255.255", "1.2.3.4"],
        ["1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "0x1.2.3.4", "1.2.3.4/24", " 1.2.3.4", "\u0662.2.3.4", ""],
    ),
    "ipv6": (
        ["::", "::1", "1::", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1::8", "1:2:3:4:5:6:7::", "ABCD:EF01::"],
        ["12345::", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", ":1", "1:", "::g", "::1%eth0", "::1/64", "::1.2.3", "[::1]", ""],
    ),
    "uuid": (
        [UUID, UUID.upper(), "0" * 8 + "-0000-0000-0000-" + "0" * 12],
        [UUID[:-1], UUID.replace("-", ""), "{" + UUID + "}", "urn:uuid:" + UUID, "g" + UUID[1:], ""],
    ),
    "uri": (
        ["http://foo.bar/?baz=qux#quux", "ldap://[2001:db8::7]/c=GB?one", "mailto:a@b", "urn:a:b", "a:", "file:///etc", "http://[v1.x]/"],
        ["//foo.bar/", "/abc", "\\\\W", "abc", "http:// a", "http://a/%", "http://a/{b}", "http://é.com/", "http://[::1", "1a:b", "a:#b#c"],
    ),
    "uri-reference": (["", "a", "/a", "//h/p", "?q", "#f", "../x", "./a:b"], ["\\\\W", "a b", "%", "#a#b", "1a:b", "{a}", "é"]),
    "json-pointer": (["", "/", "/a~0~1", "//", "/é"], ["a", "/~", "/~2", "#/a"]),
    "relative-json-pointer": (["0", "1", "0#", "1/a"], ["", "01", "-1", "/a", "0##", "#"]),
    "idn-email": (["a@b", "\u0111\u0103@x.com", "a.é@x.com"], ["2962", ".a@x.com", "a..b@x.com", "a@", "@b", "a b@c.com"]),
    "idn-hostname": (
        ["a", "www.example.com", "bücher.example", "\uc2e4\ub840.\ud14c\uc2a4\ud2b8", "münchen-ost.de"],
        ["", "-a", "a-", "a..b", "a_b", "a b", "\u302e\uc2e4", "a" * 64, "ü" * 64],
    ),
    "iri": (
        ["http://é.com/ü?x=ß#ö", "mailto:a@b", "a:", "http://[2001:db8::7]/", "urn:ü:b"],
        ["//é.com/", "/é", "é", "http:// a", "http://a/%", "http://[::1", "\\W"],
    ),
    "iri-reference": (["", "é", "/ü", "//é/ß", "?q=ö", "#ü", "http://é/"], ["\\W", "a b", "%", "#a#b", "1a:b"]),
    "uri-template": (
        ["", "a", "/{x}/{y:3}", "{?a,b*}", "{+path}/here", "{#x}", "%20", "é"],
        ["{", "}", "{x", "x}", "{}", "{x:0}", "%", "{x y}"],
    ),
    "regex": (["", "a|b", "^[a-z]+$", "(a)(?:b)*", "\\\\d{2,3}", "[^\\]]"], ["(", ")", "[", "*", "a{2,1}", "\\", "[b-a]"]),
}


def verified(schema, output, **options):
    text = output if isinstance(output, str) else json.dumps(output)
    return fault_of(JsonSchemaConstraint(schema=schema, unsupported="verify").to_json(), text, **options)


# What the RFCs say.


def test_the_table_has_every_format_that_masks_assert() -> None:
    assert ASSERTED_FORMATS == FORMATS.keys() == ASSERTED.keys()
    assert ASSERTED_FORMATS <= KNOWN_FORMATS


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("name", FORMATS)
def test_an_asserted_format_is_what_its_rfc_says_in_every_draft(name: str, draft: str) -> None:
    good, bad = FORMATS[name]
    schema = {"$schema": DRAFTS[draft], "type": "string", "format": name}
    assert [text for text in good if verified(schema, json.dumps(text)) is not None] == []
    assert [text for text in bad if verified(schema, json.dumps(text)) is None] == []


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("name", [*sorted(KNOWN_FORMATS - ASSERTED_FORMATS), "no-such-format"])
def test_any_other_format_is_an_annotation(name: str, draft: str) -> None:
    assert verified({"$schema": DRAFTS[draft], "format": name}, '"(["') is None


@pytest.mark.parametrize("draft", ["6", "7", "2019-09", "2020-12"])
def test_the_content_of_strings_is_not_asserted(draft: str) -> None:
    assert verified({"$schema": DRAFTS[draft], "contentMediaType": "application/json", "contentEncoding": "base64"}, '"{:"') is None
    properties = {"properties": {"contentEncoding": {"type": "integer"}}}
    assert verified({"$schema": DRAFTS[draft], **properties}, {"contentEncoding": "x"}) is not None


# Drafts.


@pytest.mark.parametrize(
    ("schema", "output", "valid"),
    [
        ({"$schema": DRAFTS["4"], "minimum": 3, "exclusiveMinimum": True}, 3, False),
        ({"$schema": DRAFTS["6"], "exclusiveMinimum": 3}, 3, False),
        ({"$schema": DRAFTS["6"], "if": {"type": "integer"}, "then": False}, 3, True),
        ({"$schema": DRAFTS["7"], "if": {"type": "integer"}, "then": False}, 3, False),
        ({"$schema": DRAFTS["7"], "items": [{"type": "integer"}]}, ["a"], False),
        ({"$schema": DRAFTS["7"], "$ref": "#/definitions/a", "maximum": 1, "definitions": {"a": {}}}, 3, True),
        ({"$schema": DRAFTS["2019-09"], "$ref": "#/$defs/a", "maximum": 1, "$defs": {"a": {}}}, 3, False),
        ({"$schema": DRAFTS["2019-09"], "dependentRequired": {"a": ["b"]}}, {"a": 1}, False),
        ({"prefixItems": [{"type": "integer"}]}, ["a"], False),
        ({"properties": {"a": True}, "unevaluatedProperties": False}, {"b": 1}, False),
        ({"contains": {"const": 1}, "maxContains": 1}, [1, 1], False),
        ({"$schema": "http://json-schema.org/draft-07/schema", "items": [{"type": "integer"}]}, ["a"], False),
        ({"$ref": DRAFTS["2020-12"]}, {"type": "nothing"}, False),
        ({"$schema": DRAFTS["7"], "$ref": DRAFTS["7"]}, {"type": "integer"}, True),
    ],
)
def test_a_schema_is_read_by_its_own_draft(schema, output, valid) -> None:
    assert (verified(schema, output) is None) == valid


@pytest.mark.parametrize("schema", [True, {}])
def test_everything_is_valid_under_the_trivial_schemas(schema) -> None:
    assert verified(schema, ' {"a": [1.5e3, null, "é"]} ') is None


def test_nothing_is_valid_under_false() -> None:
    assert verified(False, "1") is not None


# JSON texts.


def test_a_fault_names_its_place_in_the_output() -> None:
    fault = verified({"properties": {"a/b": {"items": {"type": "integer"}}}}, {"a/b": [1, "x"]})
    assert fault == 'the output at /a~1b/1: "x" is not of type "integer"'


@pytest.mark.parametrize("output", ["", "{", "nope", "NaN", "-Infinity", "1 2", "01", '{"a":}', '"\x01"', "\ufeff1", "[" * 100_000])
def test_what_is_not_json_is_a_fault(output: str) -> None:
    assert "not JSON" in str(verified(True, output))


@pytest.mark.parametrize(
    ("output", "valid"),
    [('{"a":1,"a":2}', True), ('{"a":1,"a":"x"}', False), ('{"a":"x","a":1}', False), ('{"\\u0061":1,"a":"x"}', False)],
)
def test_of_a_repeated_key_the_first_and_the_last_value_have_to_be_valid(output: str, valid: bool) -> None:
    schema = {"properties": {"a": {"type": "integer"}}, "maxProperties": 1}
    assert (verified(schema, output) is None) == valid
    assert (verified({"items": schema}, f"[{output}]") is None) == valid


@pytest.mark.parametrize(
    ("schema", "output", "valid"),
    [
        ({"maximum": 2**53}, str(2**53 + 1), False),
        ({"const": 2**53}, str(2**53 + 1), False),
        ({"const": 1}, "1.0", True),
        ({"type": "integer"}, "1e2", True),
        ({"type": "integer"}, "1e-2", False),
        ({"type": "integer"}, "1E+1000000000", True),
        ({"type": "integer"}, "1" + "0" * 5000, True),
        ({"type": "integer"}, "1E-1000000000", False),
        ({"maximum": 0.1}, "0.1000000000000000000000001", False),
        ({"exclusiveMinimum": 0}, "1e-400", True),
        ({"maximum": 10}, "1e400", False),
        ({"maximum": 10}, "9" * 5000, False),
        ({"multipleOf": 0.01}, "19.99", True),
        ({"multipleOf": 0.1}, "0.30000000000000000000000001", False),
        ({"uniqueItems": True}, "[1, 1.0]", False),
        ({"uniqueItems": True}, "[0.1, 0.10000000000000000000000001]", True),
        ({"enum": [1.5]}, "1.50", True),
    ],
)
def test_numbers_are_judged_as_written(schema, output: str, valid: bool) -> None:
    assert (verified(schema, output) is None) == valid


def test_a_number_beyond_all_bounds_is_not_called_valid() -> None:
    assert "cannot be judged" in str(verified({"type": "number"}, "1E+99999999999999999999999"))
    assert verified({"type": "number"}, "1E+99999999999999999999999", exact=True) is None


def test_unpaired_surrogates_are_characters_of_their_own() -> None:
    assert verified({"maxLength": 1}, r'"\ud800"') is None
    assert verified({"maxLength": 1}, r'"\ud83d\ude00"') is None
    assert verified({"maxLength": 1}, r'"\ud800\ud800"') is not None
    assert verified({"uniqueItems": True}, r'["\ud800", "\ud801"]') is None
    assert verified({"uniqueItems": True}, r'["\ud800", "\uD800"]') is not None
    assert verified({"additionalProperties": {"type": "integer"}}, r'{"\udfff": "x"}') is not None
    assert verified({"const": r"\ud800"}, r'"\\ud800"') is None
    assert verified({"maxLength": 1}, '"\ud800"') is None


# Patterns: ECMAScript's, whatever else they hold.


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("^\\d$", "\u0663", False),
        ("^(?!x)\\d$", "\u0663", False),
        ("^(?!x)\\w$", "é", False),
        ("^(?!x)\\s$", "\ufeff", True),
        ("^.$", "\r", False),
        ("^.$", "\u2028", False),
        ("^.$", "\x85", True),
        ("^.$", "😀", True),
        ("^[^]$", "\n", True),
        ("^[]$", "a", False),
        ("^a{,3}$", "a{,3}", True),
        ("^a{$", "a{", True),
        ("^]}$", "]}", True),
        ("a\\b", "aé", True),
        ("^[\\w-z]$", "-", True),
        ("^[\\b]$", "\b", True),
        ("^[[:alpha:]]$", ":]", True),
        ("^[a-z&&[^b]]$", "b", False),
        ("^[a&&b]$", "&", True),
        ("^[\\D]$", "\u0663", True),
        ("^[^\\W]$", "é", False),
        ("^\\ud83d\\ude00$", "😀", True),
        ("^\\u{1F600}$", "😀", True),
        ("^[\\ud83d\\ude00]$", "😀", True),
        ("^\\cJ\\0\\x41\\/\\-$", "\n\0A/-", True),
        ("^a$", "a\n", False),
        ("^a|b$", "ac", True),
        ("^(?=.*\\d)(?=.*[a-z]).{8,}$", "abcdefg1", True),
        ("^(?<!a)b(?<=b)$", "b", True),
        ("^(a|b)\\1$", "bb", True),
        ("^(a|b)\\1$", "ab", False),
        ("^\\p{Lu}\\p{Script=Greek}$", "Éα", True),
        ("^\\D\\W\\S[^][\\D\\W\\S]$", "é" * 5, True),
        ("^(?<year>[0-9]{4})(?P<rest>x)$", "2020x", True),
    ],
)
@pytest.mark.parametrize("draft", ["4", "7", "2020-12"])
def test_a_pattern_means_what_ecmascript_says(pattern: str, text: str, matches: bool, draft: str) -> None:
    assert (verified({"$schema": DRAFTS[draft], "pattern": pattern}, json.dumps(text)) is None) == matches
    schema = {"$schema": DRAFTS[draft], "patternProperties": {pattern: {"type": "null"}}}
    assert (verified(schema, {text: 1}) is not None) == matches


@pytest.mark.parametrize("neutral", ["", "(?!QQ)"], ids=["linear", "backtracking"])
def test_character_classes_have_ecmascripts_members(neutral: str) -> None:
    spaces = set("\t\n\v\f\r \xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff") | {chr(code) for code in range(0x2000, 0x200B)}
    members = {"d": set(string.digits), "w": set(string.ascii_letters + string.digits + "_"), "s": spaces}
    characters = [chr(code) for code in [*range(0xD800), *range(0xE000, 0x10400)]]
    for name, expected in members.items():
        judge = Validator({"pattern": f"^{neutral}\\{name}$"}, ())
        inverse = Validator({"pattern": f"^{neutral}[\\{name.upper()}]$"}, ())
        assert {c for c in characters if judge.fault_of_value(c) is None} == expected
        assert {c for c in characters if inverse.fault_of_value(c) is not None} == expected


def test_two_patterns_of_one_translation_both_hold() -> None:
    schema = {"patternProperties": {"^\\d$": {"minimum": 3}, "^[0-9]$": {"maximum": 5}}}
    assert [verified(schema, {"1": value}) is None for value in (2, 4, 6)] == [False, True, False]


def test_what_is_data_in_a_schema_is_no_pattern() -> None:
    assert verified({"const": {"pattern": "."}}, {"pattern": "."}) is None
    assert verified({"enum": [{"patternProperties": {".": 1}}]}, {"patternProperties": {".": 1}}) is None
    assert verified({"properties": {"pattern": {"const": "."}}}, {"pattern": "x"}) is not None


@given(st.text(alphabet="ab01\\[](){}^$.|*+?-,:=!<>dDwWsSbBcu é\u0663", max_size=12))
@settings(max_examples=300, deadline=None)
def test_a_pattern_is_translated_or_refused(pattern: str) -> None:
    try:
        result = translated(pattern)
    except UntranslatableError:
        return
    assert isinstance(result, str)


@pytest.mark.parametrize("pattern", ["([", "(?", "(?#a)b", "\\", "[", "[b-a]", "[a-", "\\ud800", "\\k<n>", "\\A", "\\z", "(?>a)", "*"])
def test_a_pattern_that_cannot_be_judged_is_never_called_satisfied(pattern: str) -> None:
    for schema in ({"pattern": pattern}, {"not": {"pattern": pattern}}):
        assert "cannot be judged" in str(verified(schema, '"a"'))
        assert verified(schema, '"a"', exact=True) is None


# Hostile schemas and outputs.

BACKTRACKING = r"^(?=a)(a|a)*(?=x)\1$"


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": BACKTRACKING},
        {"not": {"pattern": BACKTRACKING}},
        {"anyOf": [{"type": "integer"}, {"pattern": BACKTRACKING}]},
        {"oneOf": [{"type": "string"}, {"pattern": BACKTRACKING}]},
        {"if": {"pattern": BACKTRACKING}, "then": True, "else": False},
    ],
)
def test_a_pattern_that_backtracks_without_end_is_given_up(schema) -> None:
    begin = time.monotonic()
    assert "backtrack" in str(verified(schema, json.dumps("a" * 60)))
    assert time.monotonic() - begin < SOON


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|aa)*b", "^(a*)*$", "(x+x+)+y"])
def test_what_hangs_a_backtracking_engine_does_not_hang(pattern: str) -> None:
    begin = time.monotonic()
    assert verified({"pattern": pattern}, json.dumps("a" * 50_000 + "!")) is not None
    assert time.monotonic() - begin < SOON


def bomb(levels: int):
    """A schema whose validation takes 2 to the power of ``levels``."""
    step = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**step, f"d{levels}": {"type": "integer"}}}


def test_a_schema_that_takes_forever_is_given_up_and_the_next_is_judged() -> None:
    process = JudgeProcess(seconds=0.5)
    try:
        begin = time.monotonic()
        with pytest.raises(JudgeDied, match=r"more than 0\.5 s"):
            process.fault_of(json.dumps(bomb(60)), frozenset(), "1")
        assert time.monotonic() - begin < SOON
        assert process.fault_of(json.dumps(bomb(4)), frozenset(), "1") is None
        assert process.fault_of(json.dumps(bomb(4)), frozenset(), '"x"') is not None
    finally:
        process.close()


def test_a_bomb_is_a_fault_and_does_not_cost_its_time_twice() -> None:
    times = [time.monotonic()]
    for output in ("1", "2"):
        assert "cannot be judged" in str(verified(bomb(60), output))
        times.append(time.monotonic())
    assert times[2] - times[1] < (times[1] - times[0]) / 2


def test_a_judge_process_that_was_killed_is_replaced() -> None:
    process = JudgeProcess()
    try:
        assert process.fault_of("true", frozenset(), "1") is None
        assert process._process is not None
        process._process.kill()
        process._process.wait()
        assert process.fault_of("false", frozenset(), "1") is not None
    finally:
        process.close()


@pytest.mark.parametrize("schema", [True, {"items": {"$ref": "#"}, "type": "array"}, {"not": {"items": {"$ref": "#"}, "type": "array"}}])
def test_deep_nesting_ends_in_a_verdict(schema) -> None:
    script = (
        "import json, sys; from ananke_server.constraints.verify import fault_of;"
        "from ananke_client.constraint import JsonSchemaConstraint;"
        "constraint = JsonSchemaConstraint(schema=json.loads(sys.argv[1])).to_json();"
        "fault_of(constraint, '[' * 100_000 + ']' * 100_000);"
        "print(fault_of(constraint, '[' * 3000 + ']' * 3000))"
    )
    run = subprocess.run([sys.executable, "-c", script, json.dumps(schema)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


def test_recursion_is_judged_by_the_letter_at_any_depth() -> None:
    schema = {"type": "array", "items": {"$ref": "#"}}
    assert verified(schema, "[" * 3000 + "]" * 3000) is None
    assert "is not of type" in str(verified(schema, "[" * 3000 + "1" + "]" * 3000))


@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef"])
def test_no_reference_is_fetched(keyword: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/schema.json"
        assert "cannot be judged" in str(verified({keyword: url}, "1"))
        with pytest.raises(TimeoutError):
            listener.accept()


def test_no_file_is_read(tmp_path) -> None:
    (tmp_path / "s.json").write_text("true")
    assert "cannot be judged" in str(verified({"$ref": (tmp_path / "s.json").as_uri()}, "1"))


def test_weight_unfolds_references() -> None:
    assert weight_of({"type": "string"}) == 1
    assert weight_of(bomb(10)) > 2**10
    assert weight_of({"items": {"$ref": "#"}}) == float("inf")
    assert weight_of({"$dynamicRef": "#a"}) == float("inf")
    assert weight_of({"$defs": {"a": {}}, "allOf": [{"$ref": "#/$defs/a"}]}) < 10


def test_a_plain_schema_needs_no_process() -> None:
    judge = judge_of(json.dumps({"properties": {"a": {"pattern": "^\\d+$"}}}), frozenset())
    before = _children()
    assert judge.fault_of('{"a": "12"}') is None
    assert judge.fault_of('{"a": "x"}') is not None
    assert _children() == before


def _children() -> set[str]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return set(file.read().split())


# An independent judge.

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, -1.5]) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
ASSERTIONS = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])}),
    st.fixed_dictionaries({"const": VALUES}),
    st.fixed_dictionaries({"enum": st.lists(VALUES, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"minimum": st.integers(-2, 2)}),
    st.fixed_dictionaries({"multipleOf": st.sampled_from([0.5, 2])}),
    st.fixed_dictionaries({"maxLength": st.integers(0, 2)}),
    st.fixed_dictionaries({"pattern": st.sampled_from(["^a", "b$", "^(?!a)"])}),
    st.fixed_dictionaries({"required": st.lists(st.sampled_from("abc"), unique=True, max_size=2)}),
    st.fixed_dictionaries({"uniqueItems": st.just(True)}),
    st.fixed_dictionaries({"dependentRequired": st.just({"a": ["b"]})}),
)
SCHEMAS = st.recursive(
    ASSERTIONS | st.booleans(),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"not": inner}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"if": inner, "then": inner, "else": inner}),
        st.fixed_dictionaries({"properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2), "unevaluatedProperties": inner}),
        st.fixed_dictionaries({"prefixItems": st.lists(inner, min_size=1, max_size=2), "items": inner}),
        st.fixed_dictionaries({"contains": inner}),
        st.fixed_dictionaries({"propertyNames": inner}),
    ),
    max_leaves=5,
)


@given(SCHEMAS, st.lists(VALUES, min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_verdicts_are_those_of_jsonschema(schema, values) -> None:
    judge = jsonschema.Draft202012Validator(schema)
    for value in values:
        assert (verified(schema, json.dumps(value)) is None) == judge.is_valid(value)


# The other kinds, and composites.


def test_kinds_without_a_schema_have_no_more_to_verify() -> None:
    spec = ConstraintSpec
    for constraint in (spec.regex("a"), spec.choice("a"), spec.grammar('start: "a"'), spec.token_mask(allowed=[1])):
        assert fault_of(constraint.to_json(), "b") is None
    assert fault_of(spec.sequence(spec.json_schema({"type": "integer"}), spec.regex("a")).to_json(), "b") is None


def test_all_has_the_first_fault_of_any_member() -> None:
    spec = ConstraintSpec
    composite = spec.all_of(spec.json_schema({"minimum": 3}), spec.regex("[0-9]"), spec.json_schema({"maximum": 5})).to_json()
    assert [fault_of(composite, text) is None for text in ("2", "4", "6")] == [False, True, False]


def test_any_is_at_fault_where_every_member_is() -> None:
    spec = ConstraintSpec
    composite = spec.any_of(spec.json_schema({"maximum": 3}), spec.json_schema({"minimum": 5})).to_json()
    assert [fault_of(composite, text) is None for text in ("2", "4", "6")] == [True, False, True]


def test_the_mask_is_asked_for_members_of_any_that_are_no_schemas() -> None:
    spec = ConstraintSpec
    both = spec.all_of(spec.regex("x"), spec.json_schema(True))
    composite = spec.any_of(spec.json_schema({"type": "integer"}), spec.any_of(both, spec.choice("y"))).to_json()
    asked = []

    def matches(member, output: str) -> bool:
        asked.append(member.type)
        return member.type == "choice" and output == "y"

    assert fault_of(composite, "y") is None
    assert fault_of(composite, "y", matches=matches) is None
    assert asked == ["regex", "choice"]
    fault = fault_of(composite, "z", matches=matches)
    assert fault is not None
    assert "no alternative holds" in fault


def test_what_no_member_of_any_could_judge_is_left_to_an_exact_mask_only_then() -> None:
    spec = ConstraintSpec
    unjudged, failing = spec.json_schema({"pattern": "(?>a)"}), spec.json_schema({"type": "integer"})
    assert fault_of(spec.any_of(unjudged, unjudged).to_json(), '"a"', exact=True) is None
    assert fault_of(spec.any_of(unjudged, failing).to_json(), '"a"') is not None
