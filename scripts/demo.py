"""What `make run` shows: a server of its own, an output that masks enforce, one that is verified, and a constraint that is refused."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time

from jsonschema import Draft202012Validator

from ananke_client import AnankeError, AnankeInferenceClient, Constraint, ConstraintSpec, GenerationConfig, GenerationResult
from ananke_server.launch import PROJECT, LaunchError, TritonServer
from ananke_server.ports import free_ports

SCHEMA = {
    "type": "object",
    "properties": {
        "function": {"type": "string", "pattern": "^[a-z][a-z_]{2,19}$"},
        "arguments": {
            "type": "array",
            "minItems": 1,
            "maxItems": 3,
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string", "pattern": "^[a-z]{1,10}$"}, "type": {"enum": ["int", "str", "float"]}},
                "required": ["name", "type"],
                "additionalProperties": False,
            },
        },
        "returns": {"enum": ["int", "str", "float", "None"]},
    },
    "required": ["function", "arguments", "returns"],
    "additionalProperties": False,
}
PATTERN = r"def [a-z_]{3,20}\([a-z]{1,8}: (int|str)\) -> (int|str):\n    return [a-z]{1,8}( [-+*] [0-9]{1,3})?\n"
TYPES = {
    "type": "array",
    "items": {"enum": ["list", "tuple", "dict", "set", "str", "int", "float", "bool"]},
    "minItems": 3,
    "maxItems": 3,
    "uniqueItems": True,
}
CONFIG = GenerationConfig(max_tokens=200, temperature=0.7, seed=7)


def main() -> int:
    parser = argparse.ArgumentParser(description="Show outputs that are enforced and verified, and a refusal.")
    parser.add_argument("--server", metavar="HOST:PORT", help="one that runs (gRPC), instead of one of its own")
    server = parser.parse_args().server
    try:
        if server:
            _show(server)
        else:
            _show_with_a_server()
    except (LaunchError, AnankeError, AssertionError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


def _show_with_a_server() -> None:
    http, grpc, metrics = free_ports(3)
    log = PROJECT / ".ananke" / "run" / "demo.log"
    with TritonServer([PROJECT / "model_repository"], http_port=http, grpc_port=grpc, metrics_port=metrics, log_file=log) as server:
        started = time.monotonic()
        server.wait_until_ready(600, progress=lambda seconds: _line(f"starting Triton and vLLM … {seconds:.0f} s"))
        _line(f"Triton is ready after {time.monotonic() - started:.0f} s: {server.http_url} (HTTP), {server.grpc_url} (gRPC)\n")
        _show(server.grpc_url)
        _line("stopping the server …")
    _line("the server has stopped\n")


def _show(server: str) -> None:
    with AnankeInferenceClient(url=server) as client:
        _show_json_schema(client)
        _show_regex(client)
        _show_verified(client)
        _show_refusal(client)


def _show_json_schema(client: AnankeInferenceClient) -> None:
    prompt = [{"role": "user", "content": "Describe a Python function that adds two numbers, as JSON."}]
    result = _generate(client, "JSON schema", prompt, ConstraintSpec.json_schema(SCHEMA, whitespace="compact"))
    Draft202012Validator(SCHEMA).validate(result.parsed)
    _summarise(result, "jsonschema accepts it")


def _show_regex(client: AnankeInferenceClient) -> None:
    result = _generate(client, "regex", "A Python function with one argument:\n\n", ConstraintSpec.regex(PATTERN))
    assert re.fullmatch(PATTERN, result.text), "the output does not match the pattern"
    _summarise(result, "re.fullmatch accepts it")


def _show_verified(client: AnankeInferenceClient) -> None:
    prompt = [{"role": "user", "content": "Name three built-in types of Python, as a JSON list."}]
    constraint = ConstraintSpec.json_schema(TYPES, whitespace="compact", unsupported="verify")
    result = _generate(client, "JSON schema, verified", prompt, constraint)
    Draft202012Validator(TYPES).validate(result.parsed)
    for fault in result.metrics["verification"]["faults"]:
        print(f"\nsampled before, and rejected: {fault}", end="")
    _summarise(result, "jsonschema accepts it")


def _show_refusal(client: AnankeInferenceClient) -> None:
    _headline('the same without "unsupported": "verify"')
    report = client.validate(ConstraintSpec.json_schema(TYPES, whitespace="compact"))
    assert not report.accepted, "a mask cannot compare items"
    print(f"{report}\n")


def _headline(title: str) -> None:
    print(f"── {title} " + "─" * 60)


def _generate(client: AnankeInferenceClient, kind: str, prompt: str | list[dict[str, str]], constraint: Constraint) -> GenerationResult:
    _headline(kind)
    with client.generate_stream(prompt, constraint, CONFIG) as pieces:
        for piece in pieces:
            print(piece, end="", flush=True)
    print()
    return pieces.result


def _summarise(result: GenerationResult, checked: str) -> None:
    assert result.constraint_satisfied, f"the constraint is not satisfied: {result.report}"
    timing, predicate = result.metrics["timing_ms"], result.provenance["predicate"]
    shown = {
        "output sha256": result.provenance["subject"][0]["digest"]["sha256"],
        "prompt sha256": predicate["prompt"]["sha256"],
        "constraint": predicate["constraint"]["key"],
        "model": f"{predicate['model']['name']} on {predicate['device']}",
        "signed by": predicate["signer"] or "nobody: the server has no key (make key)",
        "sampling": json.dumps(predicate["sampling_parameters"]),
        "versions": ", ".join(f"{name} {version}" for name, version in predicate["versions"].items()),
    }
    print(f"\nsatisfied: {result.constraint_satisfied} ({result.guarantee}); {checked}")
    print(f"{result.usage.completion_tokens} tokens in {timing['total']:.0f} ms, the first after {timing['first_token']:.0f} ms", end="; ")
    print(f"masks: {result.metrics['mask']['us_mean']:.0f} us each")
    for name, value in shown.items():
        print(f"  {name:14} {value}")
    print()


def _line(text: str) -> None:
    """A line that the next one overwrites, unless it ends itself."""
    end = "" if sys.stdout.isatty() or text.endswith("\n") else "\n"
    print(("\r\033[K" if sys.stdout.isatty() else "") + text, end=end, flush=True)


if __name__ == "__main__":
    sys.exit(main())
