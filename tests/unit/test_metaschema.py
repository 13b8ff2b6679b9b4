"""The meta-schema's faults, against those that ``jsonschema`` finds."""

import time

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from waiting import SOON

from ananke_server.constraints.metaschema import MAX_FAULTS, metaschema_faults

DRAFTS = {
    "http://json-schema.org/draft-04/schema#": jsonschema.Draft4Validator,
    "http://json-schema.org/draft-06/schema#": jsonschema.Draft6Validator,
    "http://json-schema.org/draft-07/schema#": jsonschema.Draft7Validator,
    "https://json-schema.org/draft/2019-09/schema": jsonschema.Draft201909Validator,
    "https://json-schema.org/draft/2020-12/schema": jsonschema.Draft202012Validator,
}


@pytest.mark.parametrize(
    ("schema", "path", "message"),
    [
        ({"type": "foo"}, ["type"], "no type"),
        ({"type": ["string", "foo"]}, ["type", 1], '"foo" is not one of'),
        ({"properties": {"a": {"minLength": -1}}}, ["properties", "a", "minLength"], "less than the minimum"),
        ({"required": "a"}, ["required"], "not of type"),
        ({"anyOf": []}, ["anyOf"], "less than 1"),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "items": [{}]}, ["items"], "not of type"),
        ({"properties": {"a": 5}}, ["properties", "a"], "not of type"),
        ({"$ref": 5}, ["$ref"], "not of type"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{}, {"type": "x"}]}, ["items", 1, "type"], "no type"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "dependencies": {"a": 5}}, ["dependencies", "a"], "none of the forms"),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "exclusiveMinimum": 3, "minimum": 1}, ["exclusiveMinimum"], "not of type"),
    ],
)
def test_a_fault_has_path_and_message(schema, path, message) -> None:
    [(found, said)] = metaschema_faults(schema)
    assert found == path
    assert message in said


def test_every_fault_is_told_once_and_at_most_32() -> None:
    faults = metaschema_faults({"minLength": -1, "properties": {"a": 5, "b": {"type": 3}}, "enum": 1})
    assert sorted(map(str, (path for path, _ in faults))) == sorted(
        map(str, [["minLength"], ["properties", "a"], ["properties", "b", "type"], ["enum"]])
    )
    assert len(metaschema_faults({"properties": {f"p{i}": 5 for i in range(100)}})) == MAX_FAULTS


@pytest.mark.parametrize("draft", DRAFTS)
def test_patterns_and_formats_are_not_read(draft: str) -> None:
    assert metaschema_faults({"$schema": draft, "pattern": "([", "patternProperties": {"(": {}}, "$ref": "%%", "format": "nope"}) == []


@pytest.mark.parametrize("draft", DRAFTS)
def test_a_deep_schema_is_quick(draft: str) -> None:
    schema = {"type": "foo"}
    for _ in range(190):
        schema = {"items": schema}
    begin = time.monotonic()
    assert [len(path) for path, _ in metaschema_faults({"$schema": draft, **schema})] == [191]
    assert time.monotonic() - begin < SOON


KEYWORDS = ["type", "items", "properties", "required", "enum", "minimum", "minLength", "anyOf", "not", "if", "const", "dependencies"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["string", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(DRAFTS)), st.dictionaries(st.sampled_from(KEYWORDS), VALUES, max_size=4))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_what_has_faults_is_what_jsonschema_rejects(draft: str, schema) -> None:
    # Draft 4 forbids an empty enum, which our judge lets pass; it admits nothing and is refused for that.
    assume(not has_empty_enum(schema))
    schema = {"$schema": draft, **schema}
    judge = DRAFTS[draft]
    expected = judge(judge.META_SCHEMA).is_valid(schema)
    faults = metaschema_faults(schema)
    assert (faults == []) == expected
    for path, _ in faults:
        value = schema
        for part in path:
            value = value[part]


def has_empty_enum(value: object) -> bool:
    if isinstance(value, dict):
        return value.get("enum") == [] or any(map(has_empty_enum, value.values()))
    return isinstance(value, list) and any(map(has_empty_enum, value))
