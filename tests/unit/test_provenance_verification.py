"""Verification of envelopes: what passes, what each change is refused for, and what is told where a check was not made."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from provenance_support import CONSTRAINT, FILES, KEY, OUTPUT, PROMPT, REPORT, Key, predicate, signed, unsigned

from ananke_client.provenance import Envelope, EnvelopeError, Evidence, Judged, Signature, Verification, canonical_json, verify
from ananke_client.provenance.model_files import tokenizer_digest

KEY_PAIR, OTHER = Key(), Key()
OTHER_FILE = {"bytes": 10, "sha256": "9" * 64}


def judge(constraint: str, output: str) -> Judged:
    """Stands for the compiler: knows the one constraint."""
    return Judged(KEY, None if (constraint, output) == (CONSTRAINT, OUTPUT) else "the output is not a word")


def evidence(**changes: Any) -> Evidence:
    given = {"output": OUTPUT.encode(), "constraint": CONSTRAINT.encode(), "public_keys": {"key.pem": KEY_PAIR.public_pem}}
    return Evidence(**(given | changes))


def failures(verification: Verification) -> dict[str, str]:
    return {check.name: check.detail for check in verification.failed}


def not_made(verification: Verification) -> dict[str, str]:
    return {check.name: check.detail for check in verification.checks if check.result == "not made"}


def test_an_untouched_envelope_is_verified_by_every_check() -> None:
    everything = evidence(prompt=PROMPT.encode(), report=REPORT, model=FILES)
    verification = verify(signed(KEY_PAIR).to_bytes(), everything, judge)
    assert verification.result == "verified"
    names = ["envelope", "signature", "statement", "output", "prompt", "constraint", "satisfied", "report", "model", "tokenizer"]
    assert [(check.name, check.result) for check in verification.checks] == [(name, "passed") for name in names]
    assert verification.statement is not None
    assert verification.statement.predicate.sampling_parameters["seed"] == 7
    assert json.loads(json.dumps(verification.to_json()))["statement"]["_type"] == "https://in-toto.io/Statement/v1"


def test_after_a_rotation_any_of_the_keys_given_may_have_signed() -> None:
    both = {"new.pem": OTHER.public_pem, "old.pem": KEY_PAIR.public_pem}
    for key in (KEY_PAIR, OTHER):
        assert verify(signed(key).to_bytes(), evidence(public_keys=both), judge).result == "verified"
    third = verify(signed(Key()).to_bytes(), evidence(public_keys=both), judge)
    assert "not among those given" in failures(third)["signature"]
    twice = signed(KEY_PAIR).signed(OTHER.signer)
    assert verify(twice.to_bytes(), evidence(public_keys=both), judge).result == "verified"
    assert OTHER.keyid in failures(verify(twice.to_bytes(), evidence(), judge))["signature"], "every signature has to hold"


def test_without_a_signature_or_a_key_nothing_is_called_verified() -> None:
    bare = verify(unsigned().to_bytes(), evidence(public_keys={}), judge)
    assert (bare.result, list(not_made(bare))) == ("incomplete", ["signature"])
    assert "unsigned" in not_made(bare)["signature"]
    assert "unsigned" in failures(verify(unsigned().to_bytes(), evidence(), judge))["signature"]
    no_key = verify(signed(KEY_PAIR).to_bytes(), evidence(public_keys={}), judge)
    assert (no_key.result, not_made(no_key)) == ("incomplete", {"signature": "no public key was given"})
    stripped = Envelope(signed(KEY_PAIR).payload)
    assert "missing from the envelope" in failures(verify(stripped.to_bytes(), evidence(public_keys={}), judge))["statement"]
    added = unsigned().signed(KEY_PAIR.signer)
    assert "says that it is unsigned" in failures(verify(added.to_bytes(), evidence(), judge))["statement"]


def test_without_a_judge_the_constraint_is_known_but_not_judged() -> None:
    verification = verify(signed(KEY_PAIR).to_bytes(), evidence(), None)
    assert (verification.result, list(not_made(verification))) == ("incomplete", ["satisfied"])
    said = verify(signed(KEY_PAIR).to_bytes(), evidence(), lambda *_: Judged(unavailable="no tokenizer"))
    assert (said.result, not_made(said)) == ("incomplete", {"satisfied": "no tokenizer"})


@pytest.mark.parametrize(
    ("changes", "given", "name", "reason"),
    [
        ({}, {"output": b"abc7\n"}, "output", "without the newline"),
        ({}, {"constraint": CONSTRAINT.replace(" ", "").encode()}, "constraint", "SHA-256"),
        ({}, {"prompt": b"another"}, "prompt", "SHA-256"),
        ({}, {"report": b"{}"}, "report", "SHA-256"),
        ({}, {"report": b"{"}, "report", "not JSON"),
        ({}, {"model": FILES | {"config.json": OTHER_FILE}}, "model", "config.json"),
        ({}, {"model": FILES | {"chat_template.jinja": OTHER_FILE}}, "model", "not among the files of the statement: chat_template.jinja"),
        ({}, {"model": FILES | {"chat_template.jinja": OTHER_FILE}}, "tokenizer", "others"),
        ({}, {"tokenizer": {"tokenizer.json": OTHER_FILE}}, "tokenizer", "others"),
        ({"constraint": None, "constraint_satisfied": None}, {}, "constraint", "without a constraint"),
        ({"constraint_satisfied": False}, {}, "satisfied", "says that it is not satisfied"),
        ({"prompt": {"sha256": "A" * 64, "tokens": 1}}, {}, "statement", "/predicate/prompt/sha256"),
        ({"finished_at": "yesterday"}, {}, "statement", "/predicate/finished_at"),
        ({"constraint_satisfied": "yes"}, {}, "statement", "/predicate/constraint_satisfied"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], given: dict[str, Any], name: str, reason: str) -> None:
    verification = verify(signed(KEY_PAIR, **changes).to_bytes(), evidence(**given), judge)
    assert verification.result == "failed"
    assert reason in failures(verification)[name]
    assert verification.checks[1].result == "passed", "the signature is another matter"


def test_a_tokenizer_of_its_own_is_asked_for() -> None:
    own = {"tokenizer.json": OTHER_FILE, "README.md": OTHER_FILE}
    recorded = predicate()["model"] | {"tokenizer": {"sha256": tokenizer_digest(own)}}
    envelope = signed(KEY_PAIR, model=recorded).to_bytes()
    asked = verify(envelope, evidence(model=FILES), judge)
    assert (asked.result, not_made(asked)) == ("incomplete", {"tokenizer": "it is not the model's own: give its folder"})
    assert verify(envelope, evidence(model=FILES, tokenizer=own), judge).result == "verified"
    assert verify(envelope, evidence(tokenizer=own), judge).result == "verified"
    assert "tokenizer" in failures(verify(envelope, evidence(tokenizer=FILES), judge))
    without = signed(KEY_PAIR, model=recorded | {"tokenizer": None}).to_bytes()
    assert "tokenizer" not in {check.name for check in verify(without, evidence(model=FILES), judge).checks}


def test_a_statement_that_claims_too_much_is_contradicted() -> None:
    wrong = verify(signed(KEY_PAIR, "abcd").to_bytes(), evidence(output=b"abcd"), judge)
    assert failures(wrong) == {"satisfied": "the output is not a word; the statement says that it is satisfied"}
    other_key = verify(signed(KEY_PAIR).to_bytes(), evidence(), lambda *_: Judged("sha256:" + "1" * 64))
    assert "canonical digest" in failures(other_key)["satisfied"]


def test_an_output_behind_its_prompt_is_judged_without_it() -> None:
    output = {"output": {"tokens": 3, "finish_reason": "stop", "stop_reason": None, "includes_prompt": True, "token_trail": ""}}
    envelope = signed(KEY_PAIR, PROMPT + OUTPUT, **output).to_bytes()
    whole = (PROMPT + OUTPUT).encode()
    assert verify(envelope, evidence(output=whole, prompt=PROMPT.encode()), judge).result == "verified"
    assert "give the prompt" in not_made(verify(envelope, evidence(output=whole), judge))["satisfied"]


def test_fields_of_a_newer_server_do_no_harm() -> None:
    assert verify(signed(KEY_PAIR, moon_phase="full").to_bytes(), evidence(), judge).result == "verified"


def respelt(change: Callable[[dict[str, Any]], Any]) -> bytes:
    value = json.loads(signed(KEY_PAIR).to_bytes())
    return canonical_json(change(value) or value)


def with_open_bits(text: str) -> str:
    """The same bytes in base64 whose last character has other padding bits."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    body = text.rstrip("=")
    other = body[:-1] + alphabet[alphabet.index(body[-1]) ^ 1]
    assert base64.b64decode(text) == base64.b64decode(other + "=" * (len(text) - len(body)))
    return other + "=" * (len(text) - len(body))


def padded_payload() -> dict[str, Any]:
    for length in range(3):
        value: dict[str, Any] = json.loads(signed(KEY_PAIR, request_id="r" * (length + 1)).to_bytes())
        if value["payload"].endswith("="):
            return value | {"payload": with_open_bits(value["payload"])}
    raise AssertionError("no payload has padding")


@pytest.mark.parametrize(
    ("envelope", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "has the fields"),
        (signed(KEY_PAIR).to_bytes() + b"\n", "a newline at the end"),
        (json.dumps(json.loads(signed(KEY_PAIR).to_bytes())).encode(), "not canonical JSON"),
        (signed(KEY_PAIR).to_bytes().replace(b'"payload":', b'"payload":"","payload":', 1), "not canonical JSON"),
        (signed(KEY_PAIR).to_bytes().replace(b"payloadType", b"payload\\u0054ype", 1), "not canonical JSON"),
        (respelt(lambda value: value | {"more": 1}), "has the fields"),
        (respelt(lambda value: value | {"payloadType": "text/plain"}), "payloadType"),
        (respelt(lambda value: value | {"signatures": {}}), "signatures is no list"),
        (respelt(lambda value: value | {"signatures": [1]}), "signature 0"),
        (respelt(lambda value: value | {"signatures": value["signatures"] * 2}), "of one key"),
        (respelt(lambda value: value["signatures"][0].update(keyid=1)), "keyid"),
        (respelt(lambda value: value["signatures"][0].update(sig=with_open_bits(value["signatures"][0]["sig"]))), "canonical base64"),
        (respelt(lambda value: value["signatures"][0].update(sig=value["signatures"][0]["sig"].rstrip("="))), "base64"),
        (respelt(lambda value: value | {"payload": value["payload"][:8] + "\n" + value["payload"][8:]}), "base64"),
        (respelt(lambda value: value | {"payload": value["payload"].replace("b", "-", 1)}), "base64"),
        (respelt(lambda _: padded_payload()), "canonical base64"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_an_envelope_has_one_spelling(envelope: bytes, reason: str) -> None:
    verification = verify(envelope, evidence(), judge)
    assert [check.name for check in verification.checks] == ["envelope"]
    assert reason in failures(verification)["envelope"]
    with pytest.raises(EnvelopeError):
        Envelope.parse(envelope)


def test_a_payload_has_one_spelling_even_where_its_signature_holds() -> None:
    payload = json.dumps(json.loads(signed(KEY_PAIR).payload)).encode()
    verification = verify(Envelope(payload).signed(KEY_PAIR.signer).to_bytes(), evidence(), judge)
    assert "not canonical JSON" in failures(verification)["statement"]


@pytest.mark.parametrize(
    ("pem", "reason"),
    [
        (b"", "no public key"),
        (KEY_PAIR.private_pem, "private key"),
        (KEY_PAIR.public_pem + b"\n", "not the canonical PEM"),
        (b"comment\n" + KEY_PAIR.public_pem, "not the canonical PEM"),
        (KEY_PAIR.public_pem.replace(b"\n", b"\r\n"), "not the canonical PEM"),
        (generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "not an Ed25519"),
    ],
)
def test_a_public_key_has_one_spelling(pem: bytes, reason: str) -> None:
    verification = verify(signed(KEY_PAIR).to_bytes(), evidence(public_keys={"a.pem": pem}), judge)
    assert failures(verification)["public key"].startswith("a.pem: ")
    assert reason in failures(verification)["public key"]
    beside = verify(signed(KEY_PAIR).to_bytes(), evidence(public_keys={"a.pem": pem, "b.pem": KEY_PAIR.public_pem}), judge)
    assert list(failures(beside)) == ["public key"]


def test_a_key_id_is_the_digest_that_openssl_and_sha256sum_give(tmp_path: Any) -> None:
    (tmp_path / "key.pem").write_bytes(KEY_PAIR.public_pem)
    openssl = ["openssl", "pkey", "-pubin", "-in", str(tmp_path / "key.pem"), "-outform", "DER"]
    der = subprocess.run(openssl, capture_output=True, check=True)
    digest = subprocess.run(["sha256sum"], input=der.stdout, capture_output=True, check=True).stdout.split()[0]
    assert digest.decode() == KEY_PAIR.keyid


# What a change of each may be refused for; a change of the payload makes the signature fail, if it is base64 at all.
TARGETS = {
    "envelope": {"envelope", "signature", "statement"},
    "payload": {"envelope", "signature"},
    "signature": {"envelope", "signature"},
    "output": {"output"},
    "constraint": {"constraint"},
    "key": {"public key", "signature"},
}


def changed(data: bytes, at: int, by: random.Random) -> bytes:
    return data[:at] + bytes([data[at] ^ by.randrange(1, 256)]) + data[at + 1 :]


def mutant(target: str, envelope: bytes, by: random.Random) -> tuple[bytes, Evidence]:
    if target in ("payload", "signature"):
        field = json.loads(envelope)["payload"] if target == "payload" else json.loads(envelope)["signatures"][0]["sig"]
        start = envelope.index(field.encode())
        return changed(envelope, by.randrange(start, start + len(field)), by), evidence()
    whole = {"envelope": envelope, "output": OUTPUT.encode(), "constraint": CONSTRAINT.encode(), "key": KEY_PAIR.public_pem}[target]
    data = changed(whole, by.randrange(len(whole)), by)
    if target == "envelope":
        return data, evidence()
    return envelope, evidence(public_keys={"key.pem": data}) if target == "key" else evidence(**{target: data})


def test_a_thousand_changes_of_one_byte_are_refused_each_with_its_reason() -> None:
    by, envelope, seen = random.Random(5), signed(KEY_PAIR).to_bytes(), Counter[str]()
    assert verify(envelope, evidence(), judge).result == "verified"
    for _ in range(1000):
        target = by.choice(list(TARGETS))
        verification = verify(*mutant(target, envelope, by), judge)
        assert verification.result == "failed", target
        assert failures(verification).keys() & TARGETS[target], (target, verification.checks)
        assert all(check.detail for check in verification.failed)
        seen[target] += 1
    assert seen.keys() == TARGETS.keys()
    assert verify(envelope, evidence(), judge).result == "verified"


def test_every_byte_of_a_small_envelope_counts() -> None:
    by, envelope = random.Random(6), signed(KEY_PAIR).to_bytes()
    for at in range(len(envelope)):
        assert verify(changed(envelope, at, by), evidence(), judge).result == "failed", at


def test_the_client_loads_without_cryptography() -> None:
    heavy = "[name for name in ('cryptography', 'securesystemslib', 'grpc', 'tritonclient', 'rfc8785') if name in sys.modules]"
    code = f"import sys, ananke_client, ananke_client.provenance; print({heavy})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("sig", [b"", b"x", b"x" * 63, b"x" * 64, b"x" * 65, b"\xff" * 64])
def test_what_is_no_signature_is_refused_as_one(sig: bytes) -> None:
    envelope = Envelope(signed(KEY_PAIR).payload, (Signature(KEY_PAIR.keyid, sig),))
    assert "does not hold" in failures(verify(envelope.to_bytes(), evidence(), judge))["signature"]


@given(st.recursive(st.none() | st.integers(0, 9) | st.text(max_size=3), lambda part: st.lists(part) | st.dictionaries(st.text(), part)))
def test_whatever_is_signed_the_checks_tell(value: Any) -> None:
    assert verify(Envelope.of(value).signed(KEY_PAIR.signer).to_bytes(), evidence(), judge).result == "failed"


@given(st.data())
def test_a_predicate_with_any_one_field_replaced_is_judged_without_an_exception(data: st.DataObject) -> None:
    made = signed(KEY_PAIR).statement
    part = data.draw(st.sampled_from([made, made["predicate"], made["predicate"]["output"], made["predicate"]["constraint"]]))
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(st.sampled_from([None, [], {}, "", 1, -1, 0.5, True, "1" * 64]))
    envelope = Envelope.of(made).signed(KEY_PAIR.signer)
    everything = evidence(prompt=PROMPT.encode(), report=REPORT, model=FILES)
    assert verify(envelope.to_bytes(), everything, judge).result in ("verified", "failed", "incomplete")
