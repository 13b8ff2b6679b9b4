"""Time a token through Triton while the engine's thread shares all cores, while one is kept for it, and while it is tied to that one.

    python scripts/core_times.py --tokenizer DIR --streams 128 --server-cores 16 --output cores.json
    python scripts/core_times.py --quick

Arrangements of one server's threads, made from outside, in turns round by round, each round beginning with another one; ``kept`` is what
the setting ``engine_cores`` does. A warm-up of each, then the measured rounds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

import numpy as np
from bench_server import CoreShares, add_server_cores, found, on_cores, serving
from bench_support import RATIOS, parsed, percentiles, print_table, set_ratios, token_ms, write_json
from model_shape import model_of
from stream_clients import Clients, Order, Stream, clients
from stream_results import stream_fault
from stream_workloads import KINDS, Kind, Prompts
from triton_benchmark import CLIENTS, ROUND_LIMIT, environment

from ananke_server.cores import physical
from ananke_server.launch import TritonServer

STARTED: Final = time.monotonic()
SHARED: Final = "shared"
ARRANGEMENTS: Final = (SHARED, "kept", "tied")

Rounds = dict[tuple[Kind, str], list[list[Stream]]]


class Server:
    """A server whose threads are moved from core to core."""

    def __init__(self, server: TritonServer, cores: Iterable[int]) -> None:
        self._session = server.session
        self._cores = set(cores)
        self._kept = physical(self._cores)[-1]
        [self._engine] = found(server, "VLLM::Worker") or found(server, "VLLM::EngineCore")

    def arrange(self, arrangement: str) -> None:
        """Give each thread its cores."""
        for task in (task for pid in self._session.members() for task in _tasks(pid)):
            is_engine = task == self._engine
            with suppress(ProcessLookupError):
                if is_engine and arrangement != SHARED:
                    os.sched_setaffinity(task, self._kept)  # from where it goes on, as in a server
                os.sched_setaffinity(task, cores_of(arrangement, self._cores, self._kept, is_engine=is_engine))


def cores_of(arrangement: str, cores: set[int], kept: set[int], *, is_engine: bool) -> set[int]:
    """What a thread may use."""
    if arrangement == SHARED:
        return cores
    if not is_engine:
        return cores - kept
    return kept if arrangement == "tied" else cores


def _tasks(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    return []


def main() -> int:
    arguments = _arguments()
    model = model_of(arguments.tokenizer, tiny=arguments.quick)
    os.environ |= environment(arguments, model, [arguments.streams]) | {"ANANKE_ENGINE_CORES": "0"}
    shares = CoreShares.of(arguments.server_cores)
    prompts = Prompts(model)
    with (
        on_cores(shares.server),
        serving([], "core-times", timeout=arguments.deadline / 2) as server,
        on_cores(shares.clients),
        clients(server.grpc_url, min(CLIENTS, arguments.streams)) as running,
    ):
        rounds = _measured(arguments, prompts, Server(server, shares.server), running)
    points = points_of(rounds)
    header = ["kind", "arrangement", "rounds", "ms/token", "median", "ratio", "of medians", "least", "first ms"]
    print_table(header, [_row(point) for point in points])
    if arguments.output:
        about = {"streams": arguments.streams, "tokens": arguments.tokens, "server_cores": len(shares.server)}
        write_json(arguments.output, about | {"points": points})
    return 0 if len(points) == len(KINDS) * len(ARRANGEMENTS) else 1


def _measured(arguments: argparse.Namespace, prompts: Prompts, server: Server, running: Clients) -> Rounds:
    rounds: Rounds = defaultdict(list)
    for number in range(1 + arguments.rounds):
        turn = number % len(ARRANGEMENTS)
        for arrangement in (*ARRANGEMENTS[turn:], *ARRANGEMENTS[:turn]):
            server.arrange(arrangement)
            for kind in KINDS:
                left = arguments.deadline - (time.monotonic() - STARTED)
                if left < 1:
                    print(f"no time was left for round {number}")
                    return rounds
                orders = [Order(one.message("generate")) for one in prompts.requests(kind, arguments.streams, number, arguments.tokens)]
                streams = running.run(orders, min(left, ROUND_LIMIT))
                if faults := [fault for stream in streams if (fault := stream_fault(stream, kind))]:
                    print(f"{kind} {arrangement}, round {number}: {len(faults)} streams failed: {faults[0]}")
                elif number:
                    rounds[kind, arrangement].append(streams)
    return rounds


def points_of(rounds: Rounds) -> list[dict[str, Any]]:
    """A point for each arrangement that has measured rounds, with its ratios to the shared one."""
    points = []
    for kind in KINDS:
        measured = {arrangement: _point(rounds[kind, arrangement]) for arrangement in ARRANGEMENTS if rounds[kind, arrangement]}
        for arrangement, point in measured.items():
            if SHARED in measured:
                set_ratios(point, measured[SHARED])
            points.append({"kind": kind, "arrangement": arrangement} | point)
    return points


def _point(rounds: list[list[Stream]]) -> dict[str, Any]:
    every, times = [stream for streams in rounds for stream in streams], [token_ms(streams) for streams in rounds]
    return {
        "token_ms": token_ms(every),
        "median_token_ms": round(float(np.median(times)), 4),
        "round_token_ms": times,
        "first_token_ms": percentiles([stream.first_token for stream in every], scale=1e3),
    }


def _row(point: dict[str, Any]) -> list[object]:
    ratios = (f"{point[name]:.3f}" if name in point else "-" for name in RATIOS)
    first = f"{point['first_token_ms']['mean']:.1f}"
    times = (f"{point[name]:.3f}" for name in ("token_ms", "median_token_ms"))
    return [point["kind"], point["arrangement"], len(point["round_token_ms"]), *times, *ratios, first]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="a folder with tokenizer.json and tokenizer_config.json of up to 152,064 tokens")
    parser.add_argument("--streams", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=200, help="tokens a request")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds of each arrangement and kind of request")
    add_server_cores(parser)
    parser.add_argument("--deadline", type=float, default=300, help="seconds after the start of the program in which the last round begins")
    parser.add_argument("--quick", action="store_true", help="4 streams, 20 tokens, one round, a tiny shape or the small real model")
    parser.add_argument("--output", help="a JSON file")
    parser.set_defaults(enforce_eager=False, engine_args="{}")
    arguments = parsed(parser)
    if arguments.quick:
        arguments.streams, arguments.tokens, arguments.rounds = 4, 20, 1
    return arguments


if __name__ == "__main__":
    sys.exit(main())
