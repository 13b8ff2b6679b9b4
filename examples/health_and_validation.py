"""Health and validation: whether the server can generate, and what becomes of a constraint before a token is spent on it.

    .venv/bin/python examples/health_and_validation.py [--server HOST:PORT]
"""

from __future__ import annotations

import argparse
import sys

from ananke_client import AnankeInferenceClient, Constraint, ConstraintSpec, UnsupportedConstraintError

TAGS = {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 3, "uniqueItems": True}
CONSTRAINTS: dict[str, Constraint] = {
    "a regex": ConstraintSpec.regex("v[0-9]+[.][0-9]+"),
    "a malformed one": ConstraintSpec.regex("v[0-9"),
    "unique items": ConstraintSpec.json_schema(TAGS),
    "unique items, verified": ConstraintSpec.json_schema(TAGS, unsupported="verify"),
    "a contradiction": ConstraintSpec.json_schema({"type": "integer", "minimum": 5, "maximum": 3}),
}


def main(server: str | None) -> int:
    with AnankeInferenceClient(url=server, timeout=30) as client:
        health = client.health_check()  # never raises: a server out of reach is not live
        print(f"live: {health.live}, ready: {health.ready}, models: {health.models}")
        if not health.ready:
            print(health.error or health.status, file=sys.stderr)
            return 1
        if status := health.status:
            print(f"engine: {status.state} on {status.device}, {status.model}, {status.pending} requests")
        metadata = client.model_metadata()
        print(f"model: {metadata.name}, inputs: {', '.join(tensor.name for tensor in metadata.inputs)}")

        for name, constraint in CONSTRAINTS.items():
            report = client.validate(constraint)
            print(f"── {name}: {'accepted' if report.accepted else 'refused'}, guarantee {report.guarantee}")
            for finding in (*report.errors, *report.relaxed):
                print(f"   {finding}")

        # To generate with what validate refuses raises the error that it reported.
        try:
            client.generate("Tags: ", CONSTRAINTS["unique items"])
        except UnsupportedConstraintError as error:
            print(f"── generate raises {type(error).__name__}, code {error.code}")

        [statistics] = client.model_statistics("validate")
        print(f"validated since the server's start: {statistics.inference_stats.success.count}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", metavar="HOST:PORT", help="of gRPC; else $ANANKE_GRPC_URL or localhost:8001")
    sys.exit(main(parser.parse_args().server))
