"""Performance: what a constraint costs, what a batch gains, and where one request's time goes.

Figures of one machine that runs model and client are no benchmark: `ananke bench` says more, and benchmarks/ has measured ones.

    .venv/bin/python examples/performance.py [--server HOST:PORT]
"""

from __future__ import annotations

import argparse
import asyncio
import time

from ananke_client import AsyncAnankeInferenceClient, ConstraintSpec, GenerationConfig, GenerationResult

PROMPT = "A long name of a function in Python: "
LINE = ConstraintSpec.regex("[a-z_]{40,60}")
CONFIG = GenerationConfig(max_tokens=16, seed=7)
REQUESTS = 4


async def main(server: str | None) -> None:
    async with AsyncAnankeInferenceClient(url=server, timeout=120) as client:
        await client.generate(PROMPT, LINE, CONFIG)  # compiles the constraint and warms the engine: once, for all that follow
        print(f"{'':24} {'requests':>8} {'seconds':>8} {'tokens/s':>9}")
        for name, constraint, concurrency in (
            ("unconstrained, in turn", None, 1),
            ("constrained, in turn", LINE, 1),
            ("constrained, at once", LINE, REQUESTS),
        ):
            begin = time.perf_counter()
            outcomes = await client.generate_batch([PROMPT] * REQUESTS, constraint, CONFIG, concurrency=concurrency)
            seconds = time.perf_counter() - begin
            results = [outcome for outcome in outcomes if isinstance(outcome, GenerationResult)]
            tokens = sum(result.usage.completion_tokens for result in results)
            print(f"{name:24} {len(results):8} {seconds:8.2f} {tokens / seconds:9.1f}")

        begin = time.perf_counter()
        async with client.generate_stream(PROMPT, LINE, CONFIG) as stream:
            arrivals = [time.perf_counter() - begin async for _ in stream]
        timing, mask = stream.result.metrics["timing_ms"], stream.result.metrics["mask"]
        print()
        print(f"seen here:         first text after {1000 * arrivals[0]:.0f} ms, the last after {1000 * arrivals[-1]:.0f} ms")
        print(f"by the server:     first token after {timing['first_token']:.0f} ms, the last after {timing['total']:.0f} ms")
        print(f"masks:             {mask['us_mean']:.0f} us each, beside the model's own steps")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", metavar="HOST:PORT", help="of gRPC; else $ANANKE_GRPC_URL or localhost:8001")
    asyncio.run(main(parser.parse_args().server))
