"""Which model serves, by its files, and the versions beside it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from ananke_client.provenance import canonical_json, files_of, read_canonical, sha256
from ananke_server.provenance.identity import DigestCache, ModelIdentity
from ananke_server.provenance.surroundings import now, versions


@pytest.mark.parametrize(("data", "hashed"), [("é", b"\xc3\xa9"), (b"\xff", b"\xff"), ("\ud800", b"\xed\xa0\x80"), ("", b"")], ids=ascii)
def test_a_digest_is_of_the_bytes_or_of_the_texts_utf8(data: str | bytes, hashed: bytes) -> None:
    assert sha256(data) == hashlib.sha256(hashed).hexdigest()


def entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_a_local_model_is_known_by_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "Model"
    (folder / "onnx").mkdir(parents=True)
    contents = {"model.safetensors": b"x" * 11, "config.json": b"x" * 10, "empty": b"", "tokenizer.json": b"{}"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    identity = ModelIdentity.of(str(folder), None)
    assert (identity.name, identity.revision) == ("Model", None)
    assert identity.files == {name: entry(content) for name, content in contents.items()}
    told = identity.to_json()
    assert told["sha256"] == hashlib.sha256(canonical_json(identity.files)).hexdigest()
    assert told["tokenizer"]["sha256"] == hashlib.sha256(canonical_json({"tokenizer.json": entry(b"{}")})).hexdigest()


def test_a_file_whose_name_is_not_utf_8_has_a_name_that_json_can_hold(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/we\xffights")).write_bytes(b"a")
    for _ in range(2):
        identity = ModelIdentity.of(str(folder), None, cache=DigestCache(tmp_path / "digests"))
        assert identity.files == {"we\\udcffights": entry(b"a")}
        assert read_canonical(canonical_json(identity.to_json())) == identity.to_json()
    assert files_of(folder) == identity.files


def test_a_tokenizer_of_its_own_folder_is_known_by_that(tmp_path: Path) -> None:
    for name in ("model", "tokenizer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(name)
    own = ModelIdentity.of(str(tmp_path / "model"), None)
    other = ModelIdentity.of(str(tmp_path / "model"), None, tokenizer=str(tmp_path / "tokenizer"))
    assert own.files == other.files
    assert own.tokenizer != other.tokenizer == ModelIdentity.of(str(tmp_path / "tokenizer"), None).tokenizer


def test_digests_are_kept_between_starts_while_the_file_stays(tmp_path: Path) -> None:
    file, kept = tmp_path / "model" / "weights", tmp_path / "kept" / "digests.json"
    file.parent.mkdir()
    file.write_bytes(b"aaaa")
    identity = ModelIdentity.of(str(file.parent), None, cache=DigestCache(kept))
    assert identity.files["weights"] == entry(b"aaaa")
    with patch("hashlib.file_digest", side_effect=AssertionError("read again")):
        assert ModelIdentity.of(str(file.parent), None, cache=DigestCache(kept)) == identity


def overwritten(file: Path) -> None:
    file.write_bytes(b"bbbb")


def replaced(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"bbbb")
    other.replace(file)


@pytest.mark.parametrize("change", [overwritten, replaced])
def test_a_changed_file_is_read_again_though_size_and_time_are_as_before(tmp_path: Path, change: Callable[[Path], None]) -> None:
    file, kept = tmp_path / "model" / "weights", tmp_path / "kept" / "digests.json"
    file.parent.mkdir()
    file.write_bytes(b"aaaa")
    ModelIdentity.of(str(file.parent), None, cache=DigestCache(kept))
    status = file.stat()
    change(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert ModelIdentity.of(str(file.parent), None, cache=DigestCache(kept)).files["weights"] == entry(b"bbbb")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"x": 1}'])
def test_a_cache_that_cannot_be_read_is_done_without(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    kept = tmp_path / "digests"
    kept.write_bytes(content)
    assert ModelIdentity.of(str(tmp_path), None, cache=DigestCache(kept)).files["config.json"] == entry(b"{}")
    assert ModelIdentity.of(str(tmp_path), None, cache=DigestCache(Path("/proc/none/digests"))).files["config.json"] == entry(b"{}")


def test_a_hub_model_is_known_by_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789" * 4
    repository = tmp_path / "models--someone--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "b").write_text("{}")
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").symlink_to(repository / "blobs" / "b")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for revision in (None, "main", commit):
        identity = ModelIdentity.of("someone/small", revision, tokenizer="someone/small")
        assert (identity.name, identity.revision) == ("someone/small", commit)
        assert identity.files == {"config.json": entry(b"{}")}


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


@pytest.mark.parametrize("model", ["someone/no-such-model", "not a name: at all"])
def test_a_model_without_files_here_is_known_by_its_name_and_revision(model: str) -> None:
    told = ModelIdentity.of(model, "abc").to_json()
    assert told == {"name": model, "revision": "abc", "sha256": None, "files": {}, "tokenizer": None}


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
