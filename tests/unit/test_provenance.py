"""Statements about outputs: their shape, and digests that anyone can compute again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ananke_server import provenance
from ananke_server.provenance import PREDICATE_TYPE, STATEMENT_TYPE, ModelIdentity, now, statement, versions


@pytest.mark.parametrize("output", ["", "a", "né😀\n", "\0"])
def test_a_statement_names_its_output_by_digest(output: str) -> None:
    made = statement(output, {"request_id": "r"})
    assert made == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "text_output", "digest": {"sha256": hashlib.sha256(output.encode()).hexdigest()}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"request_id": "r"},
        "signed": False,
    }
    assert made["_type"] == STATEMENT_TYPE
    assert json.loads(json.dumps(made)) == made


def test_different_outputs_have_different_subjects() -> None:
    assert statement("a", {})["subject"] != statement("a\n", {})["subject"]


@pytest.mark.parametrize(("data", "hashed"), [("é", b"\xc3\xa9"), (b"\xff", b"\xff"), ("\ud800", b"\xed\xa0\x80"), ("", b"")], ids=ascii)
def test_a_digest_is_of_the_bytes_or_of_the_texts_utf8(data: str | bytes, hashed: bytes) -> None:
    assert provenance.sha256(data) == hashlib.sha256(hashed).hexdigest()


def test_a_local_model_is_known_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_HASHED_BYTES", 10)
    folder = tmp_path / "Model"
    (folder / "onnx").mkdir(parents=True)
    contents = {"model.safetensors": b"x" * 11, "config.json": b"x" * 10, "empty": b""}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    identity = ModelIdentity.of(str(folder), None)
    assert (identity.name, identity.revision) == ("Model", None)
    assert list(identity.files) == sorted(contents)
    assert identity.files == {
        "config.json": {"bytes": 10, "sha256": hashlib.sha256(b"x" * 10).hexdigest()},
        "empty": {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()},
        "model.safetensors": {"bytes": 11},
    }


def test_a_changed_file_changes_the_identity(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = ModelIdentity.of(str(tmp_path), None)
    (tmp_path / "config.json").write_text("[]")
    assert ModelIdentity.of(str(tmp_path), None) != before


def test_a_linked_file_is_hashed_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("{}")
    (tmp_path / "config.json").symlink_to(tmp_path / "blob")
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere")
    assert ModelIdentity.of(str(tmp_path), None).files["config.json"]["sha256"] == hashlib.sha256(b"{}").hexdigest()


def test_a_hub_model_is_known_by_its_revision() -> None:
    identity = ModelIdentity.of("someone/no-such-model", "abc")
    assert identity.to_json() == {"name": "someone/no-such-model", "revision": "abc", "files": {}}


def test_the_working_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ModelIdentity.of(".", None).name == tmp_path.name


def test_versions_are_those_installed() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["llguidance"] == importlib.metadata.version("llguidance")
    assert found["ananke-triton"] == importlib.metadata.version("ananke-triton")
    assert all(found.values())


def test_the_time_is_now_in_utc() -> None:
    told = now()
    assert len(told) == len("2026-11-22T17:00:00.000Z")
    assert told.endswith("Z")
    assert abs(datetime.fromisoformat(told) - datetime.now(UTC)) < timedelta(seconds=5)
