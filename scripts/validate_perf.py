"""The validate model under perf_analyzer, which has to be on PATH: without Triton's response cache, then with it.

    python scripts/validate_perf.py --output results.json

Serves validate alone, and sends it 200 distinct constraints that it has seen before, round and round.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from bench_server import serving
from bench_support import print_table, write_json
from corpus import distinct

from ananke_client import AnankeInferenceClient
from ananke_server.launch import TritonServer

DISTINCT: Final = 200
WARM_ROUNDS: Final = 40
"""How often each constraint is sent before: every instance of the model, of which there are at most 8, is to see it."""
CACHES_MIB: Final = {"off": 0, "on": 64}
_FIGURES: Final = {
    "requests": r"Request count: (\d+)",
    "per_second": r"Client:.*?Throughput: ([\d.]+) infer/sec",
    "p50_us": r"p50 latency: (\d+) usec",
    "p99_us": r"p99 latency: (\d+) usec",
}


def main() -> int:
    arguments = _arguments()
    program = shutil.which("perf_analyzer")
    if program is None:
        sys.exit("perf_analyzer is not on PATH: it comes with PyPI's perf-analyzer")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "constraints.json"
        data.write_text(json.dumps({"data": [{"constraint": [distinct(number)]} for number in range(DISTINCT)]}))
        for cache, mib in CACHES_MIB.items():
            with serving(["validate"], f"validate-perf-{cache}", environment={"ANANKE_RESPONSE_CACHE_MIB": str(mib)}) as server:
                _warm(server)
                rows += [
                    {"response_cache": cache, "concurrency": concurrency}
                    | measure(program, server, data, concurrency, arguments.interval_ms)
                    for concurrency in arguments.concurrency
                ]
    if arguments.output:
        write_json(arguments.output, {"distinct": DISTINCT, "interval_ms": arguments.interval_ms, "rows": rows})
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    return 0 if all(row["stable"] for row in rows) else 1


def measure(program: str, server: TritonServer, data: Path, concurrency: int, interval_ms: int) -> dict[str, Any]:
    """What perf_analyzer says of one concurrency.

    Raises:
        RuntimeError: it says nothing.
    """
    command = [program, "-m", "validate", "-i", "grpc", "-u", server.grpc_url, "--input-data", str(data), "--max-trials", "4"]
    command += ["--concurrency-range", f"{concurrency}:{concurrency}", "-p", str(interval_ms), "-s", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    print(done.stdout[-2500:], done.stderr[-1000:], sep="\n", flush=True)
    found = {name: re.findall(pattern, done.stdout, re.DOTALL) for name, pattern in _FIGURES.items()}
    if not all(found.values()):
        raise RuntimeError(f"perf_analyzer ended with {done.returncode} and without figures: {done.stderr[-400:]}")
    figures = {name: float(values[-1]) for name, values in found.items()}
    return {
        "requests": int(figures["requests"]),
        "per_second": figures["per_second"],
        "p50_ms": figures["p50_us"] / 1e3,
        "p99_ms": figures["p99_us"] / 1e3,
        "stable": done.returncode == 0,
    }


def _warm(server: TritonServer) -> None:
    """Have every instance see every constraint: compile them two at a time, then send them from many threads."""
    texts = [json.loads(distinct(number)) for number in range(DISTINCT)]
    with AnankeInferenceClient(url=server.grpc_url) as client:
        for threads, rounds in ((2, 2), (16, WARM_ROUNDS)):
            with ThreadPoolExecutor(threads) as pool:
                reports = list(pool.map(client.validate, texts * rounds))
    # Those of the last round: an instance that sees many at once for the first time may have been overloaded.
    if refused := [str(report) for report in reports[-DISTINCT:] if not report.accepted]:
        raise RuntimeError(f"{len(refused)} constraints are refused: {refused[0]}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--interval-ms", type=int, default=2000, help="of perf_analyzer's measurement windows")
    parser.add_argument("--output", help="a file for the results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
