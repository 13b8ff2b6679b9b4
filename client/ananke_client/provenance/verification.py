"""Verification: an envelope held against what it speaks of, each check by its name, none left out in silence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from ananke_client.extras import install_command
from ananke_client.provenance.canonical import NotCanonicalError, canonical_json, sha256
from ananke_client.provenance.envelope import Envelope, EnvelopeError, SignatureFault
from ananke_client.provenance.keys import PublicKey, PublicKeyError
from ananke_client.provenance.model_files import Files, tokenizer_digest
from ananke_client.provenance.statement import ConstraintRecord, Predicate, Statement

Result = Literal["passed", "failed", "not made", "not asked"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check: ``failed`` with what is wrong, ``not made`` with what it would need, ``not asked`` with what to give."""

    name: str
    result: Result
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a constraint's own compiler and validator say of an output; ``unavailable`` where they could not be asked, and why."""

    key: str | None = None
    fault: str | None = None
    unavailable: str | None = None


Judge = Callable[[str, str], Judged]
"""Judges a constraint's JSON text and an output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What an envelope is held against, byte for byte; None is not asked after."""

    output: bytes | None = None
    constraint: bytes | None = None
    prompt: bytes | None = None
    report: bytes | None = None
    """The text of ``constraint_report``."""
    model: Files | None = None
    """Size and SHA-256 of each file in the model's folder, as ``files_of`` gives them."""
    tokenizer: Files | None = None
    """The same of the tokenizer's folder, where that is not the model's."""
    public_keys: Mapping[str, bytes] = field(default_factory=dict)
    """PEM files by name, among which the keys of all signatures have to be."""

    def generated(self, predicate: Predicate) -> bytes | None:
        """The output without the prompt that may stand before it; None where it is not at hand.

        Raises:
            ValueError: the prompt stands before it, and is not at hand.
        """
        if self.output is None or not predicate.output.includes_prompt:
            return self.output
        if self.prompt is None:
            raise ValueError("the output begins with the prompt: give the prompt, too")
        if not self.output.startswith(self.prompt):
            raise ValueError("the output does not begin with this prompt")
        return self.output[len(self.prompt) :]


@dataclass(frozen=True, slots=True)
class Verification:
    """All checks of one envelope, and its statement where it could be read."""

    checks: tuple[Check, ...]
    statement: Statement | None

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.result == "failed")

    @property
    def result(self) -> Literal["verified", "failed", "incomplete"]:
        """``incomplete`` where nothing failed but something that was asked, or the signature, could not be checked."""
        if self.failed:
            return "failed"
        return "incomplete" if any(check.result == "not made" for check in self.checks) else "verified"

    def to_json(self) -> dict[str, Any]:
        """The result for machines."""
        checks = [{"name": check.name, "result": check.result, "detail": check.detail} for check in self.checks]
        statement = None if self.statement is None else self.statement.model_dump(mode="json", by_alias=True)
        return {"result": self.result, "checks": checks, "statement": statement}


def verify(envelope: bytes, evidence: Evidence, judge: Judge | None = None) -> Verification:
    """Hold an envelope against evidence. Raises nothing: whatever the bytes are, the checks say what is wrong with them.

    Args:
        judge: what tells whether the output satisfies the constraint; without one that check is ``not made``.
    """
    try:
        parsed = Envelope.parse(envelope)
    except EnvelopeError as fault:
        return Verification((Check("envelope", "failed", str(fault)),), None)
    checks = [Check("envelope", "passed"), *_signature(parsed, evidence.public_keys)]
    try:
        statement = Statement.model_validate_json(canonical_json(parsed.statement))
    except NotCanonicalError as fault:
        return Verification((*checks, Check("statement", "failed", f"the payload is {fault}")), None)
    except ValidationError as fault:
        return Verification((*checks, Check("statement", "failed", _first_of(fault))), None)
    checks += [_signer(statement.predicate, parsed), _output(statement, evidence)]
    checks += [_prompt(statement.predicate, evidence), *_constraint(statement.predicate, evidence, judge)]
    if evidence.report is not None:
        checks.append(_report(statement.predicate, evidence.report))
    if evidence.model is not None:
        checks.append(_model(statement.predicate, evidence.model))
    if evidence.model is not None or evidence.tokenizer is not None:
        checks += _tokenizer(statement.predicate, evidence)
    return Verification(tuple(checks), statement)


def _signature(envelope: Envelope, files: Mapping[str, bytes]) -> list[Check]:
    checks, keys = [], []
    for name, data in files.items():
        try:
            keys.append(PublicKey.parse(data))
        except PublicKeyError as fault:
            checks.append(Check("public key", "failed", f"{name}: {fault}"))
    if not files:
        missing = "no public key was given" if envelope.signatures else "the envelope is unsigned: nothing shows who made it"
        return [Check("signature", "not made", missing)]
    if not keys:
        return checks
    try:
        envelope.check_signatures(keys)
    except SignatureFault as fault:
        return [*checks, Check("signature", "failed", str(fault))]
    return [*checks, Check("signature", "passed", f"by the key {', '.join(signature.keyid for signature in envelope.signatures)}")]


def _signer(predicate: Predicate, envelope: Envelope) -> Check:
    signed_by = {signature.keyid for signature in envelope.signatures}
    if predicate.signer is None and signed_by:
        return Check("statement", "failed", "it says that it is unsigned, but the envelope has signatures")
    if predicate.signer is not None and predicate.signer not in signed_by:
        return Check("statement", "failed", f"it names {predicate.signer} as its signer, whose signature is missing from the envelope")
    return Check("statement", "passed")


def _output(statement: Statement, evidence: Evidence) -> Check:
    if evidence.output is None:
        return Check("output", "not asked", "give the output to have it checked")
    return _digest("output", evidence.output, statement.subject[0].digest.sha256)


def _prompt(predicate: Predicate, evidence: Evidence) -> Check:
    if evidence.prompt is None:
        return Check("prompt", "not asked", "give the prompt to have it checked")
    return _digest("prompt", evidence.prompt, predicate.prompt.sha256)


def _constraint(predicate: Predicate, evidence: Evidence, judge: Judge | None) -> list[Check]:
    record, constraint = predicate.constraint, evidence.constraint
    if constraint is None:
        return [] if record is None else [Check("constraint", "not asked", "give the constraint to have it, and the output by it, checked")]
    if record is None:
        return [Check("constraint", "failed", "the statement is of an output without a constraint")]
    same = _digest("constraint", constraint, record.sha256)
    if same.result == "failed":
        return [same, Check("satisfied", "not made", "this is not the constraint of the output")]
    return [same, _satisfied(predicate, record, constraint, evidence, judge)]


def _satisfied(predicate: Predicate, record: ConstraintRecord, constraint: bytes, evidence: Evidence, judge: Judge | None) -> Check:
    if evidence.output is None:
        return Check("satisfied", "not asked", "give the output to have it checked")
    if judge is None:
        return Check("satisfied", "not made", f"nothing here judges constraints: {install_command('server')}")
    try:
        text, output = constraint.decode("utf-8"), (evidence.generated(predicate) or b"").decode("utf-8")
    except ValueError as fault:
        return Check("satisfied", "not made", str(fault))
    judged = judge(text, output)
    if judged.unavailable is not None:
        return Check("satisfied", "not made", judged.unavailable)
    if judged.key != record.key:
        return Check("satisfied", "failed", f"the constraint's canonical digest is {judged.key}, the statement says {record.key}")
    if judged.fault is not None:
        says = "" if not predicate.constraint_satisfied else "; the statement says that it is satisfied"
        return Check("satisfied", "failed", judged.fault + says)
    if not predicate.constraint_satisfied:
        return Check("satisfied", "failed", f"the statement says that it is not satisfied (finish reason {predicate.output.finish_reason})")
    return Check("satisfied", "passed", f"guarantee {record.guarantee}")


def _report(predicate: Predicate, report: bytes) -> Check:
    if predicate.constraint is None:
        return Check("report", "failed", "the statement is of an output without a constraint")
    try:
        canonical = canonical_json(json.loads(report))
    except (ValueError, RecursionError) as fault:
        return Check("report", "failed", f"not JSON: {fault}")
    return _digest("report", canonical, predicate.constraint.report.sha256)


def _model(predicate: Predicate, files: Files) -> Check:
    recorded = _recorded(predicate)
    if not recorded:
        return Check("model", "not made", "the statement has no digests of the model's files")
    if changed := sorted(name for name, record in recorded.items() if files.get(name) != record):
        return Check("model", "failed", f"missing or different: {', '.join(changed):.300}")
    # A file beside them may change what the model does, as a chat template of its own.
    if added := sorted(files.keys() - recorded.keys()):
        return Check("model", "failed", f"not among the files of the statement: {', '.join(added):.300}")
    return Check("model", "passed", f"{len(recorded)} files")


def _tokenizer(predicate: Predicate, evidence: Evidence) -> list[Check]:
    record = predicate.model.tokenizer
    if record is None:
        return []
    given = evidence.model if evidence.tokenizer is None else evidence.tokenizer
    if tokenizer_digest(given or {}) == record.sha256:
        return [Check("tokenizer", "passed")]
    if evidence.tokenizer is None and tokenizer_digest(_recorded(predicate)) != record.sha256:
        return [Check("tokenizer", "not made", "it is not the model's own: give its folder")]
    return [Check("tokenizer", "failed", "the files that make it are others")]


def _recorded(predicate: Predicate) -> Files:
    return {name: record.model_dump() for name, record in predicate.model.files.items()}


def _digest(name: str, data: bytes, expected: str) -> Check:
    found = sha256(data)
    if found == expected:
        return Check(name, "passed")
    hint = ""
    if data.endswith(b"\n") and sha256(data.removesuffix(b"\n")) == expected:
        hint = "; without the newline at its end it would be"
    return Check(name, "failed", f"its SHA-256 is {found}, not {expected}{hint}")


def _first_of(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"/{'/'.join(map(str, first['loc']))}: {first['msg']}"
