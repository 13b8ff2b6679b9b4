"""Regex: the definition of a class, streamed as the model writes it, and then executed.

    .venv/bin/python examples/regex_pattern.py [--server HOST:PORT]
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, fields

from ananke_client import AnankeInferenceClient, ConstraintSpec, GenerationConfig

# The whole output has to match. Flags of a compiled pattern count: x lets it be laid out and commented.
CLASS = re.compile(
    r"""
    @dataclass\n
    class\ User:\n
    [ ]{4}name:\ str\n                                  # the first field is given
    (?: [ ]{4}(?:email|address|city|age|balance|is_admin):\ (?:int|str|bool|float)\n ){2,4}
    """,
    re.VERBOSE,
)
PROMPT = "from dataclasses import dataclass\n\n\n# A user of a web shop: name, email, address and age.\n"


def main(server: str | None) -> None:
    source = ""
    with (
        AnankeInferenceClient(url=server) as client,
        client.generate_stream(PROMPT, ConstraintSpec.regex(CLASS), GenerationConfig(max_tokens=80, temperature=0.3, seed=7)) as stream,
    ):
        for text in stream:
            print(text, end="", flush=True)
            source += text
    print()
    print(f"fields: {', '.join(field.name for field in fields(class_of(source)))}")
    print(f"satisfied: {stream.result.constraint_satisfied}, finished by: {stream.result.finish_reason}")


def class_of(source: str) -> type:
    """The class that the source defines: executed, as the pattern admits nothing but such fields."""
    scope: dict[str, type] = {"dataclass": dataclass}  # type: ignore[dict-item]
    exec(source, scope)
    return scope["User"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", metavar="HOST:PORT", help="of gRPC; else $ANANKE_GRPC_URL or localhost:8001")
    main(parser.parse_args().server)
