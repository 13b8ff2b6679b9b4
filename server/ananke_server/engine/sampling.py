"""Sampling parameters: a request's JSON, held against vLLM's own and against the constraint."""

from __future__ import annotations

import difflib
import json
import secrets
from typing import Any

import msgspec
from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import RequestOutputKind

from ananke_client.errors import InvalidRequestError
from ananke_server.repeats import repeated_key
from ananke_server.settings import Settings

_LONGEST = 4 << 20
"""Characters of the JSON text."""

SUPPORTED = frozenset(
    (
        *("n", "temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "min_tokens", "logprobs"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty"),
        *("stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos"),
        *("bad_words", "logit_bias", "allowed_token_ids"),
        *("skip_special_tokens", "spaces_between_special_tokens"),
    )
)

# Each of these would force or forbid tokens behind the mask's back.
FIGHTS_A_MASK = (
    "min_tokens",
    "ignore_eos",
    "bad_words",
    "logit_bias",
    "allowed_token_ids",
    "stop_token_ids",
)


def sampling_params(text: str | None, settings: Settings, *, constrained: bool, context_left: int) -> SamplingParams:
    """vLLM's sampling parameters of a request, its seed always set.

    Args:
        text: the JSON object of the request, or None.
        constrained: whether a mask will be applied.
        context_left: how many tokens the model's context has left behind the prompt.

    Raises:
        InvalidRequestError: the text is no JSON object, a name is unknown, a value is out of its range, or a parameter
            fights the constraint's mask.
    """
    given = _load(text)
    _check_names(given)
    if constrained:
        _check_against_mask(given)
    if given.get("n") not in (None, 1):
        raise InvalidRequestError("sampling_parameters: n must be 1; send one request for each output")
    defaults: dict[str, Any] = {
        "max_tokens": min(settings.default_max_tokens, context_left),
        "temperature": settings.default_temperature,
        "top_p": settings.default_top_p,
        "top_k": settings.default_top_k,
        "seed": secrets.randbits(53),  # what every JSON reader can hold
    }
    values = defaults | {name: value for name, value in given.items() if value is not None}
    try:
        params = msgspec.convert(values, SamplingParams, str_keys=True)
    except (msgspec.ValidationError, VLLMClientError, ValueError, TypeError, OverflowError) as fault:
        raise InvalidRequestError(f"sampling_parameters: {fault}") from None
    params.output_kind = RequestOutputKind.DELTA
    return params


def _load(text: str | None) -> dict[str, Any]:
    if not text:
        return {}
    if len(text) > _LONGEST:
        raise InvalidRequestError(f"sampling_parameters has {len(text)} characters; it takes {_LONGEST}")
    try:
        given = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as fault:
        raise InvalidRequestError(f"sampling_parameters is not JSON: {fault}") from None
    if not isinstance(given, dict):
        raise InvalidRequestError('sampling_parameters is a JSON object, like {"temperature": 0.2}')
    return given


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (repeated := repeated_key(pairs)) is not None:
        raise ValueError(f"{repeated!r} is repeated")
    return dict(pairs)


def _check_names(given: dict[str, Any]) -> None:
    for name, value in given.items():
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InvalidRequestError(f"sampling_parameters: {name} is an integer of more than 64 bits")
    if given.get("seed") == -1:
        raise InvalidRequestError("sampling_parameters: seed -1 means no seed to vLLM; leave it out")
    for name in given:
        if name in SUPPORTED:
            continue
        if name in ("structured_outputs", "guided_json", "guided_regex", "guided_grammar", "guided_choice"):
            raise InvalidRequestError(f"sampling_parameters: {name} is not taken; send the constraint in the input 'constraint'")
        if name in SamplingParams.__struct_fields__:
            raise InvalidRequestError(f"sampling_parameters: {name} is not supported here")
        close = difflib.get_close_matches(name, SUPPORTED, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; supported: {', '.join(sorted(SUPPORTED))}"
        raise InvalidRequestError(f"sampling_parameters: unknown name {name!r}{hint}")


def _check_against_mask(given: dict[str, Any]) -> None:
    for name in FIGHTS_A_MASK:
        if given.get(name):
            raise InvalidRequestError(f"sampling_parameters: {name} cannot be combined with a constraint; leave it out")


def recorded_parameters(params: SamplingParams) -> dict[str, Any]:
    """The parameters that shaped an output, for its provenance: the usual ones always, others where they were set."""
    usual = ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens")
    neutral = SamplingParams()
    values = {name: getattr(params, name) for name in sorted(SUPPORTED)}
    return {name: value for name, value in values.items() if name in usual or value != getattr(neutral, name)}
