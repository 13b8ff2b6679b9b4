"""The Ananke pipeline: Clew finds what code demands, Braid makes one constraint of it, Maze fills the hole.

The three stages are simulated here, each in a few lines: the real ones read whole code bases. What passes between Braid and the
server is real: the flat form of a constraint, whose keys all hold at once and whose other keys are metadata.

    .venv/bin/python examples/ananke_pipeline.py [--server HOST:PORT]
"""

from __future__ import annotations

import argparse
import ast
import json
from dataclasses import dataclass
from typing import Any

from ananke_client import AnankeInferenceClient, GenerationConfig, GenerationResult

CODE = '''\
def area(width: float, height: float) -> float:
    """The area of a rectangle: width times height."""
    return HOLE
'''


@dataclass(frozen=True)
class Demand:
    """What Clew finds about a hole."""

    function: str
    names: list[str]
    returns: str


def clew(code: str) -> Demand:
    """Simulated: reads the signature around the hole. The real Clew also learns from types, tests and telemetry."""
    function = next(node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef))
    return Demand(function.name, [argument.arg for argument in function.args.args], ast.unparse(function.returns or ast.Constant(None)))


def braid(demand: Demand) -> dict[str, Any]:
    """Simulated: one constraint in the flat form, of a grammar and of patterns that have to match somewhere: every parameter is used."""
    operand = " | ".join(json.dumps(name) for name in demand.names)
    rest = " operator operand" * (len(demand.names) - 1)
    operator = '" + " | " * "' if demand.returns in ("int", "float") else '" + "'
    return {
        "name": f"hole of {demand.function}",
        "priority": 100,
        "grammar": f"start: operand{rest}\noperand: {operand}\noperator: {operator}\n",
        "regex_patterns": [*({"pattern": name} for name in demand.names), {"pattern": "^.{1,40}$"}],
        "token_mask": {"forbidden_tokens": [0]},
    }


def maze(client: AnankeInferenceClient, code: str, constraint: dict[str, Any]) -> tuple[str, GenerationResult]:
    """Simulated: generates for the code before the hole, and puts the text into it. The real Maze searches and refines."""
    before, after = code.split("HOLE")
    result = client.generate(before, constraint, GenerationConfig(max_tokens=30, temperature=0.2, seed=7))
    return before + result.text + after, result


def main(server: str | None) -> None:
    demand = clew(CODE)
    print(f"Clew:  {demand}")
    constraint = braid(demand)
    print(f"Braid: {json.dumps(constraint)}")
    with AnankeInferenceClient(url=server) as client:
        code, result = maze(client, CODE, constraint)
    print("Maze:")
    print(code)
    for warning in result.report.warnings if result.report else ():
        print(f"the server: {warning}")
    print(f"satisfied: {result.constraint_satisfied}, guarantee: {result.guarantee}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", metavar="HOST:PORT", help="of gRPC; else $ANANKE_GRPC_URL or localhost:8001")
    main(parser.parse_args().server)
