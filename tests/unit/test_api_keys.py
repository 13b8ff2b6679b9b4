"""API keys: the file of their hashes, what of it is refused, a key that comes or goes while it is served, and how they are compared."""

from __future__ import annotations

import hmac
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ananke_server import api_keys
from ananke_server.api_keys import LONGEST_KEY, ApiKeyError, ApiKeys, KeyFile, key_hash, key_line, new_key
from ananke_server.launch import PROJECT


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "api_keys"


def write(file: Path, *lines: str) -> None:
    """Replaces the file at once, as a person's editor or Kubernetes does."""
    draft = file.with_suffix(".draft")
    draft.write_text("".join(lines))
    draft.replace(file)


def mint(name: str, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, PROJECT / "scripts" / "make_api_key.py", name, file], capture_output=True, text=True)


def test_a_key_is_256_random_bits_behind_a_prefix() -> None:
    keys = {new_key() for _ in range(50)}
    assert len(keys) == 50
    assert all(re.fullmatch(r"ananke_[A-Za-z0-9_-]{43}", key) for key in keys)


def test_several_keys_are_told_apart_and_others_refused() -> None:
    one, two = new_key(), new_key()
    keys = ApiKeys.parse(f"# ours\n\n{key_line('one', one)}  {key_line('team.two@x', two)}", "here")
    assert (keys.name_of(one), keys.name_of(two)) == ("one", "team.two@x")
    for wrong in ("", new_key(), one[:-1], one + "x", one.upper(), key_hash(one).hex(), "é" * 40, "\ud800", one + "x" * LONGEST_KEY):
        assert keys.name_of(wrong) is None, wrong


def test_every_entry_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the key stands, and where it does not, the work is the same."""
    held = [new_key() for _ in range(5)]
    keys = ApiKeys.parse("".join(key_line(f"k{index}", key) for index, key in enumerate(held)), "here")
    compared: list[bytes] = []
    real = hmac.compare_digest

    def counted(left: bytes, right: bytes) -> bool:
        compared.append(right)
        return real(left, right)

    monkeypatch.setattr(api_keys.hmac, "compare_digest", counted)
    for key in (held[0], held[4], new_key(), "x" * 10_000):
        compared.clear()
        keys.name_of(key)
        assert compared == [digest for _, digest in keys.hashes]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no key in it; `make api-key NAME=...` makes one"),
        ("# none\n", "there is no key in it"),
        ("one sha256:abc\n", "line 1: it should be NAME sha256:HEX"),
        ("# x\nananke_c2VjcmV0LXNlY3JldC1zZWNyZXQ\n", "line 2: it should be NAME sha256:HEX"),
        (key_line("a/b", "k"), "line 1: it should be NAME"),
        (key_line("a", "k") + key_line("a", "j"), "line 2: this name, or this key, is there already"),
        (key_line("a", "k") + key_line("b", "k"), "line 2: this name, or this key, is there already"),
    ],
)
def test_a_broken_file_is_refused_with_its_line_and_without_its_text(file: Path, text: str, said: str) -> None:
    write(file, text)
    with pytest.raises(ApiKeyError) as refused:
        KeyFile(file)
    assert str(refused.value).startswith(f"ANANKE_API_KEY_FILE, {file}")
    assert said in str(refused.value)
    assert "c2VjcmV0" not in str(refused.value)


def test_a_file_that_is_missing_unreadable_or_open_to_all_is_refused(file: Path) -> None:
    with pytest.raises(ApiKeyError, match="cannot be read: No such file or directory; `make api-key"):
        KeyFile(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ApiKeyError, match="is not UTF-8"):
        KeyFile(file)
    write(file, key_line("a", "k"))
    file.chmod(0o646)
    with pytest.raises(ApiKeyError, match=r"everybody may write to it.*chmod o-w"):
        KeyFile(file)


def test_a_key_is_revoked_and_another_admitted_without_a_restart(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    old, new = new_key(), new_key()
    write(file, key_line("old", old))
    served = KeyFile(file)
    assert served.keys().name_of(old) == "old"
    write(file, key_line("new", new))
    assert (served.keys().name_of(old), served.keys().name_of(new)) == (None, "new")
    file.write_text(key_line("new", new) + key_line("old", old))
    assert served.keys().name_of(old) == "old", "written in place"
    assert old not in caplog.text
    assert new not in caplog.text


def test_a_file_that_breaks_closes_the_door_until_it_is_mended(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One of the keys may have been revoked in it."""
    key = new_key()
    write(file, key_line("a", key))
    served = KeyFile(file)
    for spoil in (lambda: write(file, "a sha256:00\n"), file.unlink):
        spoil()
        for _ in range(3):
            with pytest.raises(ApiKeyError):
                served.keys()
    assert len(caplog.records) == 2, "each fault is told once"
    write(file, key_line("a", key))
    assert served.keys().name_of(key) == "a"


def test_the_file_is_read_once_while_it_stays_the_same(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(file, key_line("a", "k"))
    served = KeyFile(file)
    first = served.keys()
    assert all(served.keys() is first for _ in range(10))


def test_keys_are_made_for_several_and_only_their_hashes_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "api_keys"
    made = [mint(name, file) for name in ("one", "two")]
    keys = [re.search(r"^key   (\S+)$", done.stdout, re.MULTILINE) for done in made]
    assert all(key is not None for key in keys)
    served = KeyFile(file).keys()
    for name, key in zip(("one", "two"), keys, strict=True):
        assert key is not None
        assert served.name_of(key[1]) == name
        assert key[1] not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(file.parent) == ["api_keys"]


def test_a_name_that_is_taken_or_none_gets_no_key(file: Path) -> None:
    assert mint("one", file).returncode == 0
    before = file.read_text()
    for name, said in (("one", "this name, or this key, is there already"), ("a b", "is no name"), ("", "is no name")):
        refused = mint(name, file)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert said in refused.stderr
    assert file.read_text() == before
