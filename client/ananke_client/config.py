"""Generation config: how tokens are sampled."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, field_validator, model_serializer

_INT64 = 2**63
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Text = Annotated[str, Field(min_length=1)]


class GenerationConfig(BaseModel):
    """Sampling parameters, within the bounds that the server checks too.

    What is not set, or is None, is not sent: the server's settings decide then. The defaults shown here are theirs, and no dump has
    them, so that they are not set in what is made of a dump.

    Raises:
        pydantic.ValidationError: a value is out of bounds, or a field is unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_tokens: int | None = Field(default=2048, ge=1, lt=_INT64)
    """Bound on the output, in tokens; the server lowers its default to what the context leaves."""
    temperature: _Finite | None = Field(default=0.7, ge=0, le=2)
    """0 is greedy."""
    top_p: _Finite | None = Field(default=0.95, gt=0, le=1)
    top_k: int | None = Field(default=50, ge=-1, lt=_INT64)
    """-1 and 0 consider every token."""
    min_p: _Finite | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-_INT64, lt=_INT64)
    """None has the server draw one, which the provenance records; -1 would mean that to vLLM, and is refused."""
    stop: _Text | list[_Text] | None = None
    """Texts that end the output; they are not part of it."""
    presence_penalty: _Finite | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: _Finite | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: _Finite | None = Field(default=None, gt=0)
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further sampling parameters by vLLM's names; the server judges them."""

    @field_validator("seed")
    @classmethod
    def _check_seed(cls, seed: int | None) -> int | None:
        if seed == -1:
            raise ValueError("-1 means no seed to vLLM; leave it out")
        return seed

    @field_validator("extra")
    @classmethod
    def _check_extra(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if own := sorted(extra.keys() & cls.model_fields.keys()):
            raise ValueError(f"{', '.join(own)}: set by the field of that name, not in extra")
        try:
            json.dumps(extra, allow_nan=False)
        except (TypeError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from error
        return extra

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if name in self.model_fields_set}

    def to_json(self) -> str:
        """The parameters that are set, as the JSON object that ``sampling_parameters`` takes."""
        return json.dumps({**self.model_dump(exclude={"extra"}, exclude_none=True), **self.extra}, allow_nan=False)
