"""The signing key: where it comes from, what ends a start, and that nothing shows it."""

from __future__ import annotations

import logging
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from provenance_support import Key, unsigned

from ananke_client.provenance import PublicKey
from ananke_server.launch import PROJECT
from ananke_server.provenance.notary import Notary
from ananke_server.provenance.signing import SigningKeyError, load_signer
from ananke_server.settings import ConfigError, Settings, load_settings

KEY = Key()
TEXT = KEY.private_pem.decode()
SECRET = TEXT.splitlines()[1]


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANANKE_MODEL", "some/model")


def test_a_key_comes_from_a_file_or_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load_signer(load_settings()) is None
    (tmp_path / "key.pem").write_text(TEXT)
    for name, value in (
        ("ANANKE_SIGNING_KEY_FILE", str(tmp_path / "key.pem")),
        ("ANANKE_SIGNING_KEY", TEXT),
        ("ANANKE_SIGNING_KEY", TEXT.replace("\n", "\\n")),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            signer = load_signer(load_settings())
            assert signer is not None
            unsigned().signed(signer).check_signatures([KEY.public])


def pem(key: object, encryption: object = None) -> str:
    made: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())  # type: ignore[attr-defined]
    return made.decode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", None),
        ("rubbish", "no private key in PEM"),
        (TEXT[:60], "no private key in PEM"),
        (TEXT.replace(SECRET, SECRET[:-4] + "AA"), "no private key in PEM"),
        (KEY.public_pem.decode(), "a public key"),
        (pem(generate_private_key(SECP256R1())), "not an Ed25519 key"),
        (pem(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"x")), "is encrypted"),
    ],
    ids=["nothing", "rubbish", "a part", "of another length", "public", "of another kind", "encrypted"],
)
def test_a_key_that_cannot_sign_is_told_in_one_line(tmp_path: Path, text: str, reason: str | None) -> None:
    file = tmp_path / "key.pem"
    file.write_text(text)
    with pytest.raises(SigningKeyError, match=reason or "no private key in PEM") as failed:
        load_signer(Settings(model="m", signing_key_file=file))
    assert str(failed.value).startswith(f"ANANKE_SIGNING_KEY_FILE, {file}: ")
    assert "\n" not in str(failed.value)
    assert not any(line in str(failed.value) for line in text.splitlines() if line)


def test_a_file_that_cannot_be_read_and_two_keys_are_told(tmp_path: Path) -> None:
    with pytest.raises(SigningKeyError, match="cannot be read: No such file"):
        load_signer(Settings(model="m", signing_key_file=tmp_path / "none"))
    with pytest.raises(SigningKeyError, match="cannot be read: Is a directory"):
        load_signer(Settings(model="m", signing_key_file=tmp_path))
    with pytest.raises(SigningKeyError, match="both set"):
        load_signer(Settings(model="m", signing_key_file=tmp_path, signing_key=TEXT))  # type: ignore[arg-type]


def test_nothing_shows_the_key(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("ANANKE_SIGNING_KEY", TEXT)
    settings = load_settings()
    with caplog.at_level(logging.DEBUG):
        notary = Notary.of(settings)
    assert f"signed by the key {KEY.keyid}" in caplog.text
    signer = load_signer(settings)
    for shown in (repr(settings), str(settings), settings.model_dump_json(), caplog.text, repr(notary), repr(signer), str(vars(notary))):
        assert SECRET not in shown
    monkeypatch.setenv("ANANKE_MAX_PENDING", "none")
    with pytest.raises(ConfigError) as failed:
        load_settings()
    assert SECRET not in str(failed.value)


def make_key(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PROJECT / "scripts" / "make_key.py"), *arguments], capture_output=True, text=True)


def test_a_made_key_signs_and_verifies_and_is_never_overwritten(tmp_path: Path) -> None:
    private, public = tmp_path / "keys" / "signing.pem", tmp_path / "keys" / "signing.pub.pem"
    made = make_key(str(private))
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    signer = load_signer(Settings(model="m", signing_key_file=private))
    key = PublicKey.parse(public.read_bytes())
    assert key.keyid in made.stdout
    assert signer is not None
    unsigned().signed(signer).check_signatures([key])
    before = private.read_bytes(), public.read_bytes()
    for missing in (None, private, public):
        if missing is not None:
            missing.unlink()
        again = make_key(str(private))
        assert (again.returncode, again.stdout) == (1, "")
        assert "is there already" in again.stderr
        if missing is not None:
            missing.write_bytes(before[missing is public])
    assert (private.read_bytes(), public.read_bytes()) == before
    assert make_key("/proc/none/key.pem").returncode == 1
