"""Grammar: a small language of its own, for a turtle that draws, and its interpreter.

A program nests, which no regex can say: repeat 4 [ forward 50 right 90 ]

    .venv/bin/python examples/grammar.py [--server HOST:PORT]
"""

from __future__ import annotations

import argparse
import math

from ananke_client import AnankeInferenceClient, GenerationConfig

TURTLE = r"""
start: command (" " command){0,2}
command: MOVE | "repeat " COUNT " [ " command (" " command){0,2} " ]"
MOVE: /(forward|left|right) [1-9][0-9]{0,2}/
COUNT: /[2-9]/
"""
PROMPT = """Programs for a drawing turtle.
A square: repeat 4 [ forward 50 right 90 ]
A step: forward 20 left 90 forward 20 right 90
A triangle: """


def main(server: str | None) -> None:
    with AnankeInferenceClient(url=server) as client:
        # {0,2} bounds each row of commands, and so the program: with * a small model would go on to max_tokens.
        result = client.generate_with_grammar(PROMPT, TURTLE, GenerationConfig(max_tokens=120, temperature=0.0))
    print(result.text)
    print()
    if not result.constraint_satisfied:  # only max_tokens can cut a program short, and the result says so
        raise SystemExit(f"no whole program: {result.finish_reason}")
    path = walk(result.text)
    print(f"{len(path) - 1} strokes, from {path[0]} to {path[-1]}")
    print(f"satisfied: {result.constraint_satisfied}, finished by: {result.finish_reason}")


def walk(program: str) -> list[tuple[int, int]]:
    """The points that a program's turtle passes, from (0, 0) on, looking along the x axis at first."""
    points, heading = [(0.0, 0.0)], 0.0

    def run(words: list[str]) -> None:
        nonlocal heading
        while words:
            command, number = words.pop(0), int(words.pop(0))
            if command == "forward":
                x, y = points[-1]
                points.append((x + number * math.cos(heading), y + number * math.sin(heading)))
            elif command == "repeat":
                body = _block(words)
                for _ in range(number):
                    run(list(body))
            else:
                heading += math.radians(number if command == "left" else -number)

    run(program.split())
    return [(round(x), round(y)) for x, y in points]


def _block(words: list[str]) -> list[str]:
    """Takes the words of a block, from its [ to the ] that closes it, and gives those between."""
    depth, block = 0, []
    while True:
        word = words.pop(0)
        depth += (word == "[") - (word == "]")
        block.append(word)
        if depth == 0:
            return block[1:-1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", metavar="HOST:PORT", help="of gRPC; else $ANANKE_GRPC_URL or localhost:8001")
    main(parser.parse_args().server)
