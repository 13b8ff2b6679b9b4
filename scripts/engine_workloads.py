"""Workloads of the engine's benchmark: what each request is constrained by, and which tokens it is made to write."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llguidance import LLMatcher, LLTokenizer

from ananke_server.constraints import Compiler
from ananke_server.masking.matchers import new_matcher
from ananke_server.masking.program import Leaf, from_text

Whitespace = Literal["compact", "flexible"]
Accepts = Callable[[str, Sequence[int]], bool]
"""Whether a vLLM backend takes a schema and can produce these tokens under it."""

SEPARATORS = ((",", ":"), (", ", ":"), (", ", ": "))


@dataclass(frozen=True, slots=True)
class Job:
    """One request: its JSON schema, the mask program of it, and the tokens it replays, None where it samples freely."""

    schema: str
    program: str
    trace: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """Jobs that a batch takes in turn."""

    name: str
    jobs: list[Job]
    compile_ms: list[float]


def hard_schema() -> dict[str, Any]:
    """Bounded strings, bounded numbers, patterns and an enum, in so long an array that 200 tokens never reach its end."""
    bounded = {f"text_{index}": {"type": "string", "minLength": 5, "maxLength": 40} for index in range(6)}
    numbers = {
        "share": {"type": "number", "minimum": 0, "maximum": 1},
        "price": {"type": "number", "minimum": -1000, "maximum": 1000},
        "count": {"type": "integer", "minimum": 1, "maximum": 99999},
    }
    patterns = {f"slug_{index}": {"type": "string", "pattern": "^[a-z0-9-]{3,30}$"} for index in range(3)}
    state = {"state": {"enum": ["draft", "in review", "published", "withdrawn", "archived"]}}
    properties: dict[str, Any] = bounded | numbers | patterns | state
    item = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "array", "items": item, "minItems": 200}


def easy_schema() -> dict[str, Any]:
    """Free strings, booleans and a null, in as long an array."""
    properties: dict[str, Any] = {
        "name": {"type": "string"},
        "done": {"type": "boolean"},
        "note": {"type": ["string", "null"]},
    }
    item = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "array", "items": item, "minItems": 200}


def easy(compiler: Compiler, whitespace: Whitespace) -> Workload:
    """Every request under the easy schema, its tokens sampled."""
    return _sampled("easy", easy_schema(), compiler, whitespace)


def hard(compiler: Compiler, whitespace: Whitespace) -> Workload:
    """Every request under the hard schema, its tokens sampled."""
    return _sampled("hard", hard_schema(), compiler, whitespace)


def _sampled(name: str, schema: dict[str, Any], compiler: Compiler, whitespace: Whitespace) -> Workload:
    program, milliseconds = _compiled(compiler, schema, whitespace)
    if program is None:
        raise ValueError(f"the {name} schema is refused")
    return Workload(name, [Job(json.dumps(schema), program)], [milliseconds])


def real(
    compiler: Compiler,
    tokenizer: LLTokenizer,
    cases: Path,
    accepts: Accepts,
    whitespace: Whitespace,
    *,
    tokens: int,
    count: int,
    seconds: float,
) -> Workload:
    """MaskBench schemas, each as the items of an array, with its valid instances over and over as the trace.

    So every request has the same length. Taken are those whose trace both our masks and vLLM's backend can produce,
    up to ``count`` of them, or as many as are found within the time.
    """
    end = time.monotonic() + seconds
    jobs: list[Job] = []
    compile_ms: list[float] = []
    paths = sorted(cases.glob("*.json"))
    random.Random(0).shuffle(paths)
    for path in paths:
        case = json.loads(path.read_text(encoding="utf-8"))
        instances = [test["data"] for test in case.get("tests", []) if test["valid"]]
        if not instances or '"$id"' in json.dumps(case["schema"]):
            continue
        schema = {"type": "array", "items": moved(case["schema"])}
        program, milliseconds = _compiled(compiler, schema, whitespace)
        if program is None or not isinstance(from_text(program), Leaf):
            continue
        for trace in _traces(tokenizer, instances, tokens):
            if _produces(new_matcher(tokenizer, program), trace) and accepts(json.dumps(schema), trace):
                jobs.append(Job(json.dumps(schema), program, trace))
                compile_ms.append(milliseconds)
                break
        if len(jobs) == count or time.monotonic() > end:
            break
    return Workload("real", jobs, compile_ms)


def moved(schema: Any) -> Any:
    """A schema as it has to read within ``items``: its references to places in itself point below ``#/items``."""
    if isinstance(schema, list):
        return [moved(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: f"#/items{value[1:]}" if name == "$ref" and isinstance(value, str) and value.startswith("#") else moved(value)
        for name, value in schema.items()
        if name != "$schema"
    }


def backend_check(backend: str, tokenizer: LLTokenizer, folder: str, width: int, whitespace: Whitespace) -> Accepts:
    """The check for one of vLLM's backends, which compiles a schema as vLLM does.

    Args:
        folder: the tokenizer's.
        width: the model's vocabulary, which may be larger than the tokenizer's.
    """
    compact = whitespace == "compact"
    if backend == "guidance":
        from vllm.v1.structured_output.backend_guidance import has_guidance_unsupported_json_features, serialize_guidance_grammar
        from vllm.v1.structured_output.backend_types import StructuredOutputOptions

        def guidance_accepts(schema: str, trace: Sequence[int]) -> bool:
            if has_guidance_unsupported_json_features(json.loads(schema)):
                return False
            try:
                grammar = serialize_guidance_grammar(StructuredOutputOptions.JSON, schema, compact)
            except ValueError:
                return False
            return _produces(LLMatcher(tokenizer, grammar, log_level=0), trace)

        return guidance_accepts

    import xgrammar
    from transformers import AutoTokenizer
    from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

    information = xgrammar.TokenizerInfo.from_huggingface(AutoTokenizer.from_pretrained(folder), vocab_size=width)
    compiler = xgrammar.GrammarCompiler(information, max_threads=8)
    separators = (",", ":") if compact else None

    def xgrammar_accepts(schema: str, trace: Sequence[int]) -> bool:
        if has_xgrammar_unsupported_json_features(json.loads(schema)):
            return False
        try:
            compiled = compiler.compile_json_schema(schema, any_whitespace=not compact, separators=separators)
        except RuntimeError:
            return False
        matcher = xgrammar.GrammarMatcher(compiled)
        return all(matcher.accept_token(token) for token in trace)

    return xgrammar_accepts


def _compiled(compiler: Compiler, schema: Any, whitespace: Whitespace) -> tuple[str | None, float]:
    begun = time.perf_counter()
    compiled = compiler.compile(json.dumps({"type": "json_schema", "schema": schema, "whitespace": whitespace}))
    return compiled.grammar, (time.perf_counter() - begun) * 1e3


def _traces(tokenizer: LLTokenizer, instances: list[Any], tokens: int) -> Iterator[list[int]]:
    """The first tokens of an array of the instances, in each of the separators that a backend may ask for."""
    for comma, colon in SEPARATORS:
        texts = [json.dumps(instance, ensure_ascii=False, separators=(comma, colon)) for instance in instances]
        all_once = comma.join(texts)
        # One more than enough, as a token may reach from one repeat into the next.
        repeats = tokens // max(1, len(tokenizer.tokenize_str(all_once)) - 1) + 2
        trace = tokenizer.tokenize_str("[" + comma.join([all_once] * repeats))[:tokens]
        if len(trace) == tokens:
            yield trace


def _produces(matcher: LLMatcher, trace: Sequence[int]) -> bool:
    return not matcher.is_error() and bool(matcher.try_consume_tokens(list(trace)) == len(trace))
