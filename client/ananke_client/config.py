"""Generation config: how tokens are sampled."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Text = Annotated[str, Field(min_length=1)]


class GenerationConfig(BaseModel):
    """Sampling parameters; what is left at None takes the server's default.

    Raises:
        pydantic.ValidationError: a value is out of bounds, or a field is unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_tokens: int | None = Field(default=None, ge=1)
    """Bound on the output, in tokens."""
    temperature: _Finite | None = Field(default=None, ge=0)
    """0 is greedy."""
    top_p: _Finite | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    """-1 and 0 consider every token."""
    min_p: _Finite | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: _Text | list[_Text] | None = None
    """Texts that end the output; they are not part of it."""
    presence_penalty: _Finite | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: _Finite | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: _Finite | None = Field(default=None, gt=0)
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further sampling parameters by vLLM's names; the server judges them."""

    @field_validator("extra")
    @classmethod
    def _check_extra(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if own := sorted(extra.keys() & cls.model_fields.keys()):
            raise ValueError(f"{', '.join(own)}: set by the field of that name, not in extra")
        try:
            json.dumps(extra, allow_nan=False)
        except TypeError as error:
            raise ValueError(f"not JSON: {error}") from error
        return extra

    def to_json(self) -> str:
        """The parameters that are set, as the JSON object that ``sampling_parameters`` takes."""
        return json.dumps({**self.model_dump(exclude={"extra"}, exclude_none=True), **self.extra}, allow_nan=False)
