"""Provenance: statements about outputs, their signed envelopes, and how to verify them.

    envelope = result.envelope.encode()
    keys = {"key": Path(".ananke/keys/signing.pub.pem").read_bytes()}
    verification = verify(envelope, Evidence(output=result.text.encode(), public_keys=keys))
    verification.result  # "verified", "failed" or "incomplete"
"""

from ananke_client.provenance.canonical import NotCanonicalError, canonical_json, read_canonical, sha256
from ananke_client.provenance.envelope import Envelope, EnvelopeError, Signature, SignatureFault
from ananke_client.provenance.keys import PublicKey, PublicKeyError
from ananke_client.provenance.model_files import files_of
from ananke_client.provenance.statement import PREDICATE_TYPE, STATEMENT_TYPE, Predicate, Statement
from ananke_client.provenance.verification import Check, Evidence, Judge, Judged, Verification, verify

__all__ = [
    "PREDICATE_TYPE",
    "STATEMENT_TYPE",
    "Check",
    "Envelope",
    "EnvelopeError",
    "Evidence",
    "Judge",
    "Judged",
    "NotCanonicalError",
    "Predicate",
    "PublicKey",
    "PublicKeyError",
    "Signature",
    "SignatureFault",
    "Statement",
    "Verification",
    "canonical_json",
    "files_of",
    "read_canonical",
    "sha256",
    "verify",
]
