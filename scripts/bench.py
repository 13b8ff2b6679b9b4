"""What a user waits for: from a server's start to its first token, then a small load, each as a client sees it.

It starts a server of its own. Where one runs (`make serve`), that one takes the load and no start is timed, as two would share the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench_server import serving
from serve import Record

from ananke_client import AnankeInferenceClient, ConstraintSpec, GenerationConfig
from ananke_server.launch import LaunchError, TritonServer

ANANKE = str(Path(sys.executable).with_name("ananke"))


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Seconds from the start of the server's process; the model's files may be in the machine's page cache."""

    ready_seconds: float
    first_token_seconds: float


def main() -> int:
    arguments = parse()
    load = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in ("requests", "concurrency", "max_tokens")]
    try:
        url = arguments.server or (record.grpc if (record := Record.read()) else None)
        if url is not None:
            return report(None, url, load, as_json=arguments.json)
        with started() as (server, cold):
            return report(cold, server.grpc_url, load, as_json=arguments.json)
    except LaunchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--server", metavar="HOST:PORT", help="gRPC; times no start")
    parser.add_argument("--requests", type=int, default=16, help="with a constraint, and as many without")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


@contextmanager
def started() -> Iterator[tuple[TritonServer, ColdStart]]:
    """A server of its own, and how long it took.

    Raises:
        LaunchError: it does not start.
    """
    begin = time.perf_counter()
    with serving([], "bench") as server:
        ready = time.perf_counter() - begin
        await_first_token(server.grpc_url)
        yield server, ColdStart(ready_seconds=ready, first_token_seconds=time.perf_counter() - begin)


def await_first_token(url: str) -> None:
    """The first request ever: a mask process meets its first grammar in it."""
    with (
        AnankeInferenceClient(url=url, timeout=120) as client,
        client.generate_stream("A year: ", ConstraintSpec.regex("(19|20)[0-9]{2}"), GenerationConfig(max_tokens=8, seed=1)) as stream,
    ):
        next(iter(stream))


def report(cold: ColdStart | None, url: str, load: list[str], *, as_json: bool) -> int:
    """Run the load and print all; the exit code is that of `ananke bench`."""
    start: dict[str, Any] | None = asdict(cold) if cold else None
    if as_json:
        done = subprocess.run([ANANKE, "bench", "--server", url, "--json", *load], stdout=subprocess.PIPE, text=True)
        if done.stdout:
            print(json.dumps({"cold_start": start, **json.loads(done.stdout)}))
        return done.returncode
    if cold:
        print(f"cold start: ready after {cold.ready_seconds:.1f} s, first token after {cold.first_token_seconds:.1f} s", flush=True)
    else:
        print(f"no start was timed, as a server runs at {url}", flush=True)
    return subprocess.run([ANANKE, "bench", "--server", url, *load]).returncode


if __name__ == "__main__":
    raise SystemExit(main())
