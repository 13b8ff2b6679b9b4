"""Statements, keys and envelopes for the provenance tests."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from securesystemslib.signer import CryptoSigner

from ananke_client.provenance import Envelope, PublicKey, sha256
from ananke_client.provenance.keys import pem_of
from ananke_client.provenance.model_files import tokenizer_digest
from ananke_client.provenance.statement import statement
from ananke_client.provenance.trail import trail_of

CONSTRAINT = '{"type": "regex", "pattern": "[a-z]{3}[0-9]"}'
KEY = "sha256:" + "0" * 64
PROMPT, OUTPUT = "A word: ", "abc7"
TOKENS = (40, 300, 7)
REPORT = b'{"accepted": true, "kind": "regex"}'
FILES = {name: {"bytes": 10, "sha256": digit * 64} for name, digit in (("config.json", "1"), ("tokenizer.json", "2"))}


class Key:
    """A key pair: its PEM files, its signer and its id."""

    def __init__(self) -> None:
        private = Ed25519PrivateKey.generate()
        self.private_pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.public_pem = pem_of(private.public_key())
        self.public = PublicKey.of(private.public_key())
        self.keyid = self.public.keyid
        self.signer = CryptoSigner(private, self.public.key)


def predicate(**changes: Any) -> dict[str, Any]:
    """A predicate as the server records it."""
    return {
        "request_id": "r-1",
        "received_at": "2026-11-24T15:00:00.000Z",
        "finished_at": "2026-11-24T15:00:01.250Z",
        "prompt": {"sha256": sha256(PROMPT), "tokens": 3},
        "constraint": {
            "sha256": sha256(CONSTRAINT),
            "key": KEY,
            "kind": "regex",
            "guarantee": "exact",
            "report": {"sha256": sha256(b'{"accepted":true,"kind":"regex"}')},
        },
        "constraint_satisfied": True,
        "verification": None,
        "output": {
            "tokens": len(TOKENS),
            "finish_reason": "stop",
            "stop_reason": None,
            "includes_prompt": False,
            "token_trail": trail_of(OUTPUT, TOKENS),
        },
        "model": {
            "name": "Model",
            "revision": None,
            "sha256": "3" * 64,
            "files": FILES,
            "tokenizer": {"sha256": tokenizer_digest(FILES)},
        },
        "sampling_parameters": {"temperature": 0.7, "seed": 7, "max_tokens": 20, "top_p": 1.0, "min_p": 1e-7},
        "engine": {
            "runner": "v1",
            "dtype": "float32",
            "quantization": None,
            "max_model_len": 2048,
            "tensor_parallel_size": 1,
            "pipeline_parallel_size": 1,
            "enforce_eager": True,
        },
        "versions": {"python": "3.11.7", "llguidance": "1.7.6"},
        "device": "cpu",
        "timing_ms": {"admitted": 15.818, "first_token": 197.588, "total": 1462.228},
        "mask": {"steps": 3, "batch_wait_us_mean": 12.5},
        "signer": None,
    } | changes


def unsigned(output: str = OUTPUT, /, **changes: Any) -> Envelope:
    """The envelope of a server without a key."""
    return Envelope.of(statement(output, predicate(**changes)))


def signed(key: Key, output: str = OUTPUT, /, **changes: Any) -> Envelope:
    """The envelope of a server with a key."""
    return unsigned(output, signer=key.keyid, **changes).signed(key.signer)
