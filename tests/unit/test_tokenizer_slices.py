"""Token slices are for speed alone: no mask depends on them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from llguidance import LLMatcher, LLTokenizer

from ananke_server.constraints.schema import schema_grammar
from ananke_server.masking.tokenizer import TokenizerSource, tokenizer_source

MODEL = Path(__file__).parents[2] / ".ananke/models/SmolLM2-135M-Instruct"

SCHEMAS = [
    {"type": "string", "maxLength": 12},
    {"type": "object", "additionalProperties": {"type": "string", "minLength": 2, "maxLength": 5}},
    {"type": "array", "items": {"type": "string", "pattern": "^[a-z ]{1,9}$"}},
    {"type": "object", "properties": {"a": {"type": "number"}, "b": {"enum": ["x y", "xy"]}}},
]


@pytest.fixture(scope="module")
def source() -> TokenizerSource:
    if not MODEL.is_dir():
        pytest.skip("no model: make setup makes it")
    return tokenizer_source(str(MODEL))


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_masks_are_the_same_without_slices(source: TokenizerSource, schema: dict[str, object]) -> None:
    grammar = LLMatcher.grammar_from_lark(schema_grammar(schema).lark)
    sliced = LLMatcher(source.load(), grammar, log_level=0)
    plain = LLMatcher(LLTokenizer(source.text, eos_token=list(source.ends), slices=[]), grammar, log_level=0)
    choose = random.Random(7)
    for _ in range(40):
        mask = sliced.compute_bitmask()
        assert mask == plain.compute_bitmask()
        allowed = [token for token in range(len(mask) * 8) if mask[token // 8] >> token % 8 & 1 and token not in source.ends]
        if not allowed:
            break
        token = choose.choice(allowed)
        assert sliced.consume_token(token)
        assert plain.consume_token(token)

