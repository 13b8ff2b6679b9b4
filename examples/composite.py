"""Composite: constraints put together, as a sequence of parts, all of several, or any of them.

    .venv/bin/python examples/composite.py [--server HOST:PORT]
"""

from __future__ import annotations

import argparse

from ananke_client import AnankeInferenceClient, BatchItem, ConstraintSpec, GenerationConfig, GenerationResult

# One part after the other: a request line and its body, each by the kind of constraint that says it best.
REQUEST = ConstraintSpec.sequence(
    ConstraintSpec.choice("POST", "PUT"),
    ConstraintSpec.regex(" /api/[a-z]{3,10}\n"),
    ConstraintSpec.json_schema(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "pattern": "^[A-Z][a-z]{2,9}$"},
                "age": {"type": "integer", "minimum": 0, "maximum": 120},
            },
            "required": ["name", "age"],
            "additionalProperties": False,
        },
        whitespace="compact",
    ),
)

# All at once: the masks are intersected. A name in snake case, that begins with a verb, and is neither short nor long.
NAME = ConstraintSpec.all_of(
    ConstraintSpec.regex("[a-z]+(_[a-z]+)*"),
    ConstraintSpec.regex("(get|find|list|count)_.*"),
    ConstraintSpec.regex(".{8,18}"),
)

# Any of them: an answer, or that there is none.
STATUS = ConstraintSpec.any_of(
    ConstraintSpec.json_schema({"type": "integer", "minimum": 100, "maximum": 599}),
    ConstraintSpec.choice("unknown"),
)

ITEMS = {
    "sequence": BatchItem("An HTTP request that creates a user, its line and then its body:\n", REQUEST),
    "all": BatchItem("# Finds a user by email\ndef ", NAME),
    "any": BatchItem("The HTTP status of 'OK' is 200, that of 'Not Found' is ", STATUS),
}


def main(server: str | None) -> None:
    config = GenerationConfig(max_tokens=60, temperature=0.3, seed=7)
    with AnankeInferenceClient(url=server) as client:
        outcomes = client.generate_batch(ITEMS.values(), config=config, concurrency=len(ITEMS))
    for mode, outcome in zip(ITEMS, outcomes, strict=True):
        if not isinstance(outcome, GenerationResult):
            raise outcome
        print(f"── {mode} (satisfied: {outcome.constraint_satisfied})")
        print(outcome.text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", metavar="HOST:PORT", help="of gRPC; else $ANANKE_GRPC_URL or localhost:8001")
    main(parser.parse_args().server)
