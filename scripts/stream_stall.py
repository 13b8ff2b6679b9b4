"""Intruders in a run of constrained streams: a constraint that takes two seconds to compile, and a schema of 100 enums never seen before.

What counts is how much longer the others' steps become: the 99th percentile of the time between their tokens, in runs
with and without intruders by turns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from bench_support import percentiles
from stream_clients import Clients, Order, Stream
from stream_workloads import Prompts

from ananke_client import AnankeInferenceClient
from ananke_client.grpc_codec import encode_tensors

STREAMS: Final = 64
COMPILE_SECONDS: Final = 2.0
LIMITS: Final = {"ANANKE_LIMITS__COMPILE_SECONDS": "8", "ANANKE_LIMITS__COMPILE_MIB": "2000", "ANANKE_LIMITS__BYTES": str(32 << 20)}
"""Settings of the server under which the slow constraint is taken."""
INTRUDER_TOKENS: Final = 10
_PART_VALUES: Final = 300
_MOST_PARTS: Final = 40


def enums_constraint(salt: str, values: int = 10) -> str:
    """A schema of 100 properties, each with so many texts to choose from, all of them new."""
    properties = {f"{salt}_{index}": {"enum": [f"{salt} {index} {value}" for value in range(values)]} for index in range(100)}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return json.dumps({"type": "json_schema", "schema": schema, "whitespace": "compact"})


def slow_constraint(salt: str, parts: int) -> str:
    """All of so many schemas of 100 long enums, each a little shorter than the one before: they are merged into one."""
    schemas = [json.loads(enums_constraint(salt, _PART_VALUES - index)) for index in range(parts)]
    return json.dumps({"type": "composite", "mode": "all", "constraints": schemas})


def calibrated(url: str, left: Callable[[], float]) -> tuple[int, float]:
    """How many parts the slow constraint needs to take about two seconds on this machine, and the seconds it took.

    Raises:
        RuntimeError: none that the server takes is slow enough.
    """
    parts, seconds = 2, 0.0
    with AnankeInferenceClient(url=url, timeout=60) as client:
        while parts <= _MOST_PARTS and left() > 0:
            begun = time.perf_counter()
            report = client.validate(slow_constraint(_salt(), parts))
            seconds = time.perf_counter() - begun
            if not report.accepted:
                raise RuntimeError(f"a constraint of {parts} parts is refused after {seconds:.2f} s: {report.errors[0]}")
            if seconds >= COMPILE_SECONDS:
                return parts, seconds
            parts = max(parts + 1, int(parts * min(2.0, COMPILE_SECONDS / seconds)))
    raise RuntimeError(f"no constraint was found that compiles in {COMPILE_SECONDS} s: {seconds:.2f} s at most")


def measure(
    url: str, clients: Clients, prompts: Prompts, *, tokens: int, rounds: int, streams: int, left: Callable[[], float]
) -> dict[str, Any]:
    """Rounds without and with intruders by turns, after a warm-up.

    Raises:
        RuntimeError: streams failed, or no constraint is slow enough.
    """
    parts, seconds = calibrated(url, left)
    quiet: list[list[Stream]] = []
    disturbed: list[list[Stream]] = []
    intruders: list[Stream] = []
    warm_up = _round(clients, prompts, 0, tokens, streams, [], left)
    length = max(stream.stamps[-1][0] - stream.begun for stream in warm_up)
    for number in range(1, rounds + 1):
        quiet.append(_round(clients, prompts, number, tokens, streams, [], left))
        orders = [
            Order(_message(slow_constraint(_salt(), parts), number), after=0.25 * length),
            Order(_message(enums_constraint(_salt()), number), after=0.5 * length),
        ]
        every = _round(clients, prompts, number, tokens, streams, orders, left)
        disturbed.append(every[:streams])
        intruders += every[streams:]
    without, with_intruders = ([gap for one in several for gap in _gaps(one)] for several in (quiet, disturbed))
    raised = np.percentile(with_intruders, 99) - np.percentile(without, 99)
    return {
        "streams": streams,
        "rounds": rounds,
        "slow_parts": parts,
        "slow_validate_seconds": round(seconds, 3),
        "intruders_first_token_ms": [round(1e3 * one.first_token, 1) for one in intruders if one.stamps],
        "intruders_errors": [one.error for one in intruders if one.error],
        "between_tokens_ms": percentiles(without, scale=1e3),
        "between_tokens_with_intruders_ms": percentiles(with_intruders, scale=1e3),
        "p99_raised_ms": round(float(raised) * 1e3, 3),
        "max_raised_ms": round(1e3 * (max(with_intruders) - max(without)), 3),
    }


def _round(
    clients: Clients, prompts: Prompts, number: int, tokens: int, streams: int, intruders: Sequence[Order], left: Callable[[], float]
) -> list[Stream]:
    orders = [Order(one.message("generate")) for one in prompts.requests("hard", streams, number, tokens)]
    done = clients.run([*orders, *intruders], timeout=max(1.0, left()))
    if failed := [one.error for one in done[:streams] if one.error or len(one.stamps) < 2]:
        raise RuntimeError(f"{len(failed)} of {streams} streams failed: {failed[0]}")
    return done


def _gaps(streams: Sequence[Stream]) -> list[float]:
    return [gap for stream in streams for _, gap in stream.gaps()]


def _message(constraint: str, seed: int) -> bytes:
    sampling = json.dumps({"max_tokens": INTRUDER_TOKENS, "temperature": 1.0, "seed": seed})
    tensors: dict[str, str | bool] = {"text_input": "An intruder: ", "constraint": constraint, "sampling_parameters": sampling}
    message = encode_tensors("generate", tensors | {"stream": True, "return_num_output_tokens": True})
    serialised: bytes = message.SerializeToString()
    return serialised


def _salt() -> str:
    """Nine digits that were not there before."""
    return f"{time.time_ns() // 1000 % 10**9:09d}"
