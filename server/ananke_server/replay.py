"""Replay: a recorded generation repeated by vLLM in this process, alone in its batch, and compared token by token."""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ananke_client.provenance.statement import EngineRecord, Predicate
from ananke_client.provenance.trail import first_departure, token_at
from ananke_server.engine.engine import GuidedEngine
from ananke_server.engine.prompt import prompt_tokens
from ananke_server.engine.request import Delta, GenerateRequest
from ananke_server.engine.start import device_name
from ananke_server.handover import Seal
from ananke_server.provenance.surroundings import versions
from ananke_server.settings import Settings

# Canonical JSON has integers beyond 2**53 - 1 as text.
_INTEGERS = ("seed", "max_tokens", "top_k", "min_tokens", "logprobs")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What an envelope has the digests of, as text; the output without the prompt before it, None where it is not at hand."""

    prompt: str
    constraint: str | None
    output: str | None


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an output, and its log-probability there before mask and temperature, None where that was not computed."""

    id: int
    text: str
    logprob: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A repeated generation beside the recorded one.

    ``position`` is the first token that differs, counted from 0, and None where none does or where the recorded output, which is
    needed to find it, is not at hand. ``recorded`` and ``repeated`` are the two tokens there, None where an output had ended.
    """

    equal: bool
    text: str
    tokens: int
    position: int | None = None
    recorded: Token | None = None
    repeated: Token | None = None

    @property
    def gap(self) -> float | None:
        """By how much the repeated token's logit lies above the recorded one's: near 0 where rounding decided."""
        logprobs = [None if token is None else token.logprob for token in (self.repeated, self.recorded)]
        return None if logprobs[0] is None or logprobs[1] is None else logprobs[0] - logprobs[1]


class Replayer:
    """vLLM with one model, set up as an engine record says. A context manager; starting takes tens of seconds."""

    def __init__(self, model: str, engine: EngineRecord) -> None:
        shapes = {"dtype", "runner", "max_model_len", "tensor_parallel_size", "pipeline_parallel_size", "enforce_eager"}
        values: dict[str, Any] = engine.model_dump(include=shapes)
        values |= {"max_num_seqs": 1, "verify_attempts": 1}
        values |= {"signing_key": None, "signing_key_file": None, "provenance_log": None}
        self.settings = Settings(model=model, **values)
        self._runner = asyncio.Runner()
        self._engine: GuidedEngine | None = None

    def __enter__(self) -> Replayer:
        self._engine = self._runner.run(GuidedEngine.start(self.settings, Seal(secrets.token_bytes(32))))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._engine is not None:
            self._runner.run(self._engine.shutdown())
        self._runner.close()

    def compare(self, recorded: Predicate, inputs: Inputs) -> Comparison:
        """Generate again and compare. A verified output has one attempt, that of the recorded seed.

        Raises:
            AnankeError: the generation fails here.
        """
        return self._runner.run(self._compare(recorded, inputs))

    async def _compare(self, recorded: Predicate, inputs: Inputs) -> Comparison:
        assert self._engine is not None, "a Replayer is a context manager"
        text, token_ids = await _generate(self._engine, recorded, inputs)
        output = text if inputs.output is None else inputs.output
        trail = recorded.output.token_trail
        position = first_departure(trail, output, token_ids)
        if position is None or (inputs.output is None and position == 0):
            # Without the recorded output a trail can be followed by an equal one alone.
            return Comparison(position is None, text, len(token_ids))
        async with self._engine.life.engine() as engine:
            tokenizer = engine.llm.get_tokenizer()
            ids = token_at(trail, output, token_ids[:position], len(tokenizer)), next(iter(token_ids[position:]), None)
            prompt = [*prompt_tokens(tokenizer, inputs.prompt), *token_ids[:position]]
            logprobs = await _logprobs(engine.llm, prompt, [token for token in ids if token is not None])
        tokens = [None if token is None else Token(token, tokenizer.decode([token]), logprobs.get(token)) for token in ids]
        return Comparison(False, text, len(token_ids), position, *tokens)


async def _generate(engine: GuidedEngine, recorded: Predicate, inputs: Inputs) -> tuple[str, list[int]]:
    parameters = recorded.sampling_parameters
    integers = {name: int(parameters[name]) for name in _INTEGERS if isinstance(parameters.get(name), str)}
    request = GenerateRequest(
        request_id=f"replay-{secrets.token_hex(4)}",
        prompt=inputs.prompt,
        constraint=inputs.constraint,
        # The one way by which tokens come through; it changes nothing of what is sampled.
        sampling_parameters=json.dumps(parameters | integers | {"logprobs": 0}),
        exclude_input_in_output=True,
    )
    deltas: list[Delta] = []
    await engine.generate(request, deltas.append)
    positions = [position for delta in deltas for position in delta.logprobs or []]
    return "".join(delta.text for delta in deltas), [int(next(iter(position))) for position in positions]


async def _logprobs(llm: Any, prompt: list[int], token_ids: list[int]) -> dict[int, float]:
    """The log-probabilities of tokens after a prompt."""
    from vllm import SamplingParams, TokensPrompt

    params = SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=token_ids)
    found: dict[int, float] = {}
    async with aclosing(llm.generate(TokensPrompt(prompt_token_ids=prompt), params, f"gap-{secrets.token_hex(4)}")) as responses:
        async for response in responses:
            for position in response.outputs[0].logprobs or []:
                found |= {token: entry.logprob for token, entry in position.items()}
    return found


def differences(recorded: Predicate) -> list[str]:
    """What is not here as it was there, of what may change numerics: libraries and device."""
    here = versions()
    changed = [
        f"{name} {version} there, {here.get(name, 'none')} here"
        for name, version in sorted(recorded.versions.items())
        if here.get(name) != version
    ]
    if recorded.device != device_name():
        changed.append(f"{recorded.device} there, {device_name()} here")
    return changed
