"""The seal between validate and guided_vllm: opened by its own server alone, for the very constraint it was made for."""

from __future__ import annotations

import copy
import multiprocessing
import os
import stat
import tempfile
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE

from ananke_client.report import ConstraintReport, Diagnostic
from ananke_server import handover
from ananke_server.constraints import CompiledConstraint
from ananke_server.constraints.compiled import UNCONSTRAINED
from ananke_server.handover import SECRET_BYTES, Seal

TEXT = '{"type": "regex", "pattern": "é"}'
ACCEPTED = CompiledConstraint(ConstraintReport(accepted=True, kind="regex", guarantee="exact", key="sha256:0"), "start: /é/")
REFUSED = CompiledConstraint(
    ConstraintReport(accepted=False, errors=[Diagnostic(code="invalid_constraint", message="né", line=1, column=2, hint="h")]), None
)
SEAL = Seal(b"s" * SECRET_BYTES)


@pytest.mark.parametrize(
    ("text", "compiled"),
    [(TEXT, ACCEPTED), (TEXT, REFUSED), (None, UNCONSTRAINED), ("", REFUSED), ("\ud800", REFUSED)],
)
def test_a_seal_opens_what_it_closed(text: str | None, compiled: CompiledConstraint) -> None:
    assert SEAL.open(text, SEAL.close(text, compiled)) == compiled


@pytest.mark.parametrize(("closed_for", "opened_for"), [(TEXT, TEXT + " "), (TEXT, None), (None, TEXT), (None, ""), ("", None), (TEXT, "")])
def test_a_seal_holds_for_its_constraint_alone(closed_for: str | None, opened_for: str | None) -> None:
    assert SEAL.open(opened_for, SEAL.close(closed_for, ACCEPTED)) is None


@pytest.mark.parametrize("secret", [b"", b"S" * SECRET_BYTES, b"s" * (SECRET_BYTES - 1), b"s" * (SECRET_BYTES + 1)])
def test_another_secret_opens_nothing(secret: bytes) -> None:
    assert Seal(secret).open(TEXT, SEAL.close(TEXT, ACCEPTED)) is None


def test_one_flipped_bit_anywhere_opens_nothing() -> None:
    sealed = SEAL.close(TEXT, ACCEPTED)
    for place in range(len(sealed)):
        for bit in (1, 128):
            assert SEAL.open(TEXT, sealed[:place] + bytes([sealed[place] ^ bit]) + sealed[place + 1 :]) is None


def test_a_part_or_more_than_a_seal_opens_nothing() -> None:
    sealed = SEAL.close(TEXT, ACCEPTED)
    assert [SEAL.open(TEXT, sealed[:length]) for length in range(len(sealed))] == [None] * len(sealed)
    assert [SEAL.open(TEXT, other) for other in (sealed + b" ", b" " + sealed, sealed * 2)] == [None] * 3


def test_equal_constraints_are_sealed_in_equal_bytes() -> None:
    assert SEAL.close(TEXT, ACCEPTED) == Seal(SEAL._secret).close(TEXT, copy.deepcopy(ACCEPTED))


# The secret that two processes share.


@pytest.fixture
def secret_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "seal"
    monkeypatch.setattr(handover, "_secret_file", lambda: path)
    return path


@pytest.fixture
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def exchange(other: Connection) -> None:
    seal = Seal.shared()
    other.send(seal.close(TEXT, ACCEPTED))
    other.send(seal.open(TEXT, other.recv()))


def test_processes_of_one_server_share_a_seal_and_no_other_process_does(temporary_folder: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    one, theirs = spawn.Pipe()
    other, theirs_too = spawn.Pipe()
    children = [spawn.Process(target=exchange, args=(end,)) for end in (theirs, theirs_too)]
    for child in children:
        child.start()
    sealed, sealed_too = one.recv(), other.recv()
    one.send(sealed_too)
    other.send(sealed)
    assert [one.recv(), other.recv()] == [ACCEPTED, ACCEPTED]
    assert Seal.shared().open(TEXT, sealed) is None
    for child in children:
        child.join(30)


def test_the_secret_is_its_owners_alone_and_kept(secret_file: Path) -> None:
    sealed = Seal.shared().close(TEXT, ACCEPTED)
    assert stat.S_IMODE(secret_file.stat().st_mode) == 0o600
    assert len(secret_file.read_bytes()) == SECRET_BYTES
    assert Seal.shared().open(TEXT, sealed) == ACCEPTED


def test_many_at_once_agree_on_one_secret(secret_file: Path) -> None:
    sealed: list[bytes] = []
    threads = [threading.Thread(target=lambda: sealed.append(Seal.shared().close(TEXT, ACCEPTED))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(sealed)) == 1
    assert len(sealed) == 16


def planted_link(path: Path) -> None:
    target = path.with_name("target")
    target.write_bytes(b"k" * SECRET_BYTES)
    target.chmod(0o600)
    path.symlink_to(target)


def planted_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def planted_folder(path: Path) -> None:
    path.mkdir()


def planted_readable_file(path: Path) -> None:
    path.write_bytes(b"k" * SECRET_BYTES)
    path.chmod(0o644)


def planted_group_writable_file(path: Path) -> None:
    path.write_bytes(b"k" * SECRET_BYTES)
    path.chmod(0o620)


@pytest.mark.parametrize("plant", [planted_link, planted_dangling_link, planted_folder, planted_readable_file, planted_group_writable_file])
def test_a_planted_secret_is_refused(secret_file: Path, plant: Any) -> None:
    plant(secret_file)
    with pytest.raises(OSError, match=r"not this user's alone|Is a directory|symbolic link"):
        Seal.shared()
    assert not secret_file.with_name("nowhere").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_another_users_secret_is_refused(secret_file: Path) -> None:
    secret_file.write_bytes(b"k" * SECRET_BYTES)
    secret_file.chmod(0o600)
    os.chown(secret_file, 65534, 65534)
    with pytest.raises(PermissionError):
        Seal.shared()


@pytest.mark.parametrize("content", [b"", b"k" * (SECRET_BYTES - 1), b"k" * (SECRET_BYTES + 1)])
def test_a_secret_that_is_never_finished_is_no_secret(secret_file: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    secret_file.write_bytes(content)
    secret_file.chmod(0o600)
    with pytest.raises(TimeoutError):
        Seal.shared()


def test_a_planted_pipe_holds_nobody_up(secret_file: Path) -> None:
    os.mkfifo(secret_file, 0o600)
    failures: list[type[BaseException]] = []

    def share() -> None:
        try:
            Seal.shared()
        except OSError as failure:
            failures.append(type(failure))

    thread = threading.Thread(target=share, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    try:
        assert not thread.is_alive()
        assert failures
    finally:
        if thread.is_alive():
            os.close(os.open(secret_file, os.O_RDWR | os.O_NONBLOCK))
            secret_file.unlink()
            thread.join(5)
