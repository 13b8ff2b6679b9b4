"""Statements: the in-toto Statement (v1) about one output, with this project's predicate.

Fields that a newer server adds are kept and not judged, as in-toto asks of consumers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ananke_client.provenance.canonical import sha256
from ananke_client.report import Guarantee

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://ananke.dev/generation/v1"
SUBJECT = "text_output"

_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0)]
_Time = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
"""UTC, RFC 3339, to the millisecond."""
_Figures = dict[str, float | int | None]


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True, protected_namespaces=())


class Digest(_Model):
    """A digest set of in-toto's with the one digest in it."""

    sha256: _Sha256


class PromptRecord(_Model):
    """The prompt, of which ``sha256`` is over the bytes of ``text_input``; ``tokens`` has a chat template's too."""

    sha256: _Sha256
    tokens: _Count


class ConstraintRecord(_Model):
    """The constraint, and what the server made of it."""

    sha256: _Sha256
    """Of its bytes as they were sent."""
    key: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")] | None
    """Of its canonical form, as in the report."""
    kind: str | None
    guarantee: Guarantee
    report: Digest
    """Of the canonical JSON of ``constraint_report``."""


class OutputRecord(_Model):
    """The output: its tokens and how it ended."""

    tokens: _Count
    finish_reason: str
    stop_reason: str | int | None
    """The stop string or stop token that ended it, None where its own end or a limit did."""
    includes_prompt: bool
    """Whether the subject is the prompt and then the output, as where ``exclude_input_in_output`` is false."""
    token_trail: str
    """A mark of four bytes for each token, in base64: see ``trail``."""


class FileRecord(_Model):
    """One of a model's files."""

    bytes: _Count
    sha256: _Sha256


class ModelRecord(_Model):
    """The model, by the files it was loaded from; ``sha256`` is None where these could not be found."""

    name: str
    revision: str | None
    sha256: _Sha256 | None
    """Of the canonical JSON of ``files``."""
    files: dict[str, FileRecord]
    tokenizer: Digest | None
    """Of the canonical JSON of those of its files that make the tokenizer."""


class VerificationRecord(_Model):
    """A verified output's attempts: the seed among the sampling parameters is that of the last."""

    attempts: Annotated[int, Field(ge=1)]
    first_seed: int | str | None


class EngineRecord(_Model):
    """How vLLM was set up, as far as it shapes what is sampled."""

    runner: str
    dtype: str
    quantization: str | None
    max_model_len: _Count
    tensor_parallel_size: _Count
    pipeline_parallel_size: _Count = 1
    enforce_eager: bool


class Predicate(_Model):
    """What an output came from. Integers beyond 2**53 - 1, such as a seed, stand as decimal text."""

    request_id: str
    received_at: _Time
    finished_at: _Time
    prompt: PromptRecord
    constraint: ConstraintRecord | None
    constraint_satisfied: bool | None
    verification: VerificationRecord | None
    output: OutputRecord
    model: ModelRecord
    sampling_parameters: dict[str, Any]
    engine: EngineRecord
    versions: dict[str, str]
    device: str
    timing_ms: _Figures
    """From the request's arrival to its admission, first token and end."""
    mask: _Figures | None
    signer: str | None
    """The id of the key that signs this; None where the server has no key, so that the statement is unsigned."""


class Subject(_Model):
    """The output, by its digest."""

    name: Literal["text_output"]
    digest: Digest


class Statement(_Model):
    """An in-toto Statement about one output."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[list[Subject], Field(min_length=1, max_length=1)]
    predicateType: Literal["https://ananke.dev/generation/v1"]
    predicate: Predicate


def statement(output: str, predicate: dict[str, Any]) -> dict[str, Any]:
    """The statement about one output text."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": SUBJECT, "digest": {"sha256": sha256(output)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
