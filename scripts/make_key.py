"""Make an Ed25519 key pair for signing provenance: a private key for the server, and the public one for those who verify."""

import argparse
import os
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ananke_client.provenance.keys import key_id, pem_of
from ananke_server.launch import PROJECT

DEFAULT = PROJECT / ".ananke" / "keys" / "signing.pem"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=DEFAULT, help="where the private key goes; the public one lies beside it")
    private_file: Path = parser.parse_args().file
    public_file = private_file.with_name(f"{private_file.stem}.pub.pem")
    for file in (private_file, public_file):
        if os.path.lexists(file):
            print(f"make_key: {file} is there already; move it away first", file=sys.stderr)
            return 1
    key = Ed25519PrivateKey.generate()
    try:
        private_file.parent.mkdir(parents=True, exist_ok=True)
        write_new(private_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        write_new(public_file, pem_of(key.public_key()), 0o644)
    except OSError as fault:
        print(f"make_key: {fault.filename}: {fault.strerror}", file=sys.stderr)
        return 1
    print(f"private key  {private_file}\npublic key   {public_file}\nkey id       {key_id(key.public_key())}")
    print(f"to sign with it: ANANKE_SIGNING_KEY_FILE={private_file} make serve")
    return 0


def write_new(file: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:
        opened.write(content)


if __name__ == "__main__":
    raise SystemExit(main())
