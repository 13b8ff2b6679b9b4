"""Workloads of the benchmark through Triton: the same prompts, sampling parameters and constraint for every side of it."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any, Final, Literal

from engine_rounds import PROMPT_TOKENS, SAMPLING
from engine_workloads import hard_schema
from tritonclient.grpc import service_pb2

from ananke_client.grpc_codec import encode_tensors

Kind = Literal["unconstrained", "hard"]
KINDS: Final[tuple[Kind, ...]] = ("unconstrained", "hard")
SAMPLED: Final = {name: value for name, value in SAMPLING.items() if name != "detokenize"}
"""The engine benchmark's sampling parameters, but that text is made of the tokens on every side."""

HARD_BEGINNING: Final = '[{"text_0":"'
"""Of every output under the hard schema."""


def hard_constraint() -> str:
    """The constraint of the kind ``hard``: 200 tokens never reach its end."""
    return json.dumps({"type": "json_schema", "schema": hard_schema(), "whitespace": "compact"})


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its prompt as text and as tokens, its kind, and what is random about it."""

    kind: Kind
    prompt: str
    prompt_tokens: list[int]
    seed: int
    max_tokens: int

    def sampling(self) -> dict[str, Any]:
        """Sampling parameters by vLLM's names. Unconstrained requests go past the end of the sequence, so that all have the same length."""
        values = SAMPLED | {"max_tokens": self.max_tokens, "seed": self.seed}
        return values | {"ignore_eos": True} if self.kind == "unconstrained" else values

    def tensors(self, model: str) -> dict[str, str | bool]:
        """Inputs of our ``generate``, or of Triton's own vLLM backend, whose constraints stand among the sampling parameters."""
        sampling, tensors = self.sampling(), {}
        if self.kind == "hard" and model == "generate":
            tensors = {"constraint": hard_constraint()}
        elif self.kind == "hard":
            sampling["structured_outputs"] = json.dumps({"json": hard_schema()})
        return {
            "text_input": self.prompt,
            "sampling_parameters": json.dumps(sampling),
            "stream": True,
            "return_num_output_tokens": True,
            **tensors,
        }

    def message(self, model: str) -> bytes:
        """The request as gRPC sends it."""
        request: service_pb2.ModelInferRequest = encode_tensors(model, self.tensors(model))
        serialised: bytes = request.SerializeToString()
        return serialised


class Prompts:
    """Prompts of a fixed number of tokens, which are those of the text, in whatever way it is tokenized."""

    def __init__(self, model: str) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(model)
        texts = self._tokenizer.batch_decode([[token] for token in range(1000, 20_000)])
        self._words = [text for text in texts if text[:1] == " " and text[1:].isascii() and text[1:].isalpha()]

    def requests(self, kind: Kind, count: int, number: int, max_tokens: int) -> list[Request]:
        """The requests of the round of this number: the same in every run, other ones in every round."""
        source = random.Random(f"{kind} {count} {number}")
        return [Request(kind, *self._prompt(source), seed=index, max_tokens=max_tokens) for index in range(count)]

    def _prompt(self, source: random.Random) -> tuple[str, list[int]]:
        while True:
            text = "".join(source.choices(self._words, k=PROMPT_TOKENS))
            tokens = list(self._tokenizer.encode(text))
            if len(tokens) == PROMPT_TOKENS:
                return text, tokens
