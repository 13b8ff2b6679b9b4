"""JSON schema: an API's handler, described by the model as an instance of a type and then written out as Python.

    .venv/bin/python examples/json_schema.py [--server HOST:PORT]
"""

from __future__ import annotations

import argparse
from typing import Literal

from pydantic import BaseModel, Field

from ananke_client import AnankeInferenceClient, ConstraintSpec, GenerationConfig


class Parameter(BaseModel):
    name: Literal["name", "email", "age", "role"]
    type: Literal["int", "str", "bool"]


class Handler(BaseModel):
    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str = Field(pattern="^/api/[a-z]{3,10}$")
    function: str = Field(pattern="^(get|create|update|delete)_[a-z]{3,10}$")
    parameters: list[Parameter] = Field(min_length=2, max_length=3)
    status: Literal[200, 201, 204]


PROMPT = [{"role": "user", "content": "Describe the HTTP handler that creates a user from a name and an age, as JSON."}]


def main(server: str | None) -> None:
    # A compact schema leaves the model no white space to wander off into.
    constraint = ConstraintSpec.json_schema(Handler, whitespace="compact")
    with AnankeInferenceClient(url=server) as client:
        result = client.generate(PROMPT, constraint, GenerationConfig(max_tokens=120, temperature=0.3, seed=7))
    print(result.text)
    print()
    print(source_of(result.parsed))
    print(f"satisfied: {result.constraint_satisfied}, guarantee: {result.guarantee}, {result.usage.completion_tokens} tokens")


def source_of(handler: Handler) -> str:
    """The handler as Python; of parameters with one name, which a schema admits, the last counts."""
    parameters = {parameter.name: parameter.type for parameter in handler.parameters}
    return (
        f'@app.{handler.method.lower()}("{handler.path}", status_code={handler.status})\n'
        f"async def {handler.function}({', '.join(f'{name}: {kind}' for name, kind in parameters.items())}) -> Response:\n"
        f"    ...\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", metavar="HOST:PORT", help="of gRPC; else $ANANKE_GRPC_URL or localhost:8001")
    main(parser.parse_args().server)
