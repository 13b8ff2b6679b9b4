"""Many streams at once on a real server, and what the metrics endpoint says of them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from running_requests import LONG, LONG_CONFIG
from server_metrics import settled, totals
from waiting import eventually

from ananke_client import AnankeInferenceClient, ConstraintSpec, DeadEndError, GenerationConfig, GenerationResult
from ananke_server.launch import TritonServer

STREAMS = 64
PROMPT = "Once upon a time"


def requests(values: dict[str, float], outcome: str, *kinds: str) -> float:
    return sum(values.get(f'ananke_requests_total{{kind="{kind}",outcome="{outcome}"}}', 0.0) for kind in kinds)


def forced(number: int) -> str:
    return f"stream {number} says: " + " ".join(f"{number * step % 97:02d}" for step in range(1, 9))


def stream(client: AnankeInferenceClient, number: int) -> tuple[int, list[str], GenerationResult]:
    """One of three kinds: a text that the constraint alone decides, a sampled one, and plain text."""
    config = GenerationConfig(max_tokens=60 if number % 3 == 0 else 24, temperature=1.0, seed=number)
    constraint = [ConstraintSpec.choice(forced(number)), ConstraintSpec.regex("([0-9]{2} ){4}"), None][number % 3]
    with client.generate_stream(PROMPT, constraint, config) as pieces:
        return number, list(pieces), pieces.result


def test_sixty_four_streams_at_once_are_whole_and_validate_still_answers(server: TritonServer) -> None:
    before = settled(server)
    # Three channels, as from three clients.
    clients = [AnankeInferenceClient(url=server.grpc_url, timeout=240) for _ in range(3)]
    begun = time.monotonic()
    with ThreadPoolExecutor(STREAMS) as pool:
        running = [pool.submit(stream, clients[number % 3], number) for number in range(STREAMS)]
        latencies = []
        while not all(one.done() for one in running):
            started = time.monotonic()
            assert clients[0].validate(ConstraintSpec.regex("[0-9]{2}")).accepted
            latencies.append(time.monotonic() - started)
            time.sleep(0.05)
        results = [one.result() for one in running]
    seconds = time.monotonic() - begun
    renewals = STREAMS * (1 + seconds / 3)
    for client in clients:
        client.close()

    for number, pieces, result in results:
        assert "".join(pieces) == result.text
        assert result.usage.completion_tokens == result.provenance["predicate"]["output"]["tokens"]
        if number % 3 == 0:
            assert (result.text, result.constraint_satisfied) == (forced(number), True)
        elif number % 3 == 1:
            assert (len(result.text), result.constraint_satisfied) == (12, True)
        else:
            assert result.usage.completion_tokens == 24 or result.finish_reason == "stop"
        assert len(pieces) > 1
    # The first waits with the 43 constraints of the streams; none for the generations.
    assert sorted(latencies)[len(latencies) // 2] < seconds / 10
    assert sorted(latencies)[-3] < seconds / 2

    tokens = sum(result.usage.completion_tokens for _, _, result in results)
    pieces = sum(len(pieces) for _, pieces, _ in results)
    constrained = ("choice", "regex")
    assert eventually(lambda: requests(totals(server), "ok", *constrained) >= requests(before, "ok", *constrained) + 43)
    after = settled(server)  # the processes that send responses tell of them each at its own time
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    assert [requests(grown, "ok", kind) for kind in ("choice", "regex", "none")] == [22, 21, 21]
    assert grown["ananke_output_tokens_total"] == tokens
    assert grown["ananke_time_to_first_token_seconds_count"] == STREAMS
    assert grown["ananke_time_to_first_token_seconds_sum"] > 0
    assert grown["ananke_time_per_output_token_seconds_count"] == STREAMS
    masked = sum(result.usage.completion_tokens for _, _, result in results if result.constraint_satisfied is not None)
    assert grown["ananke_mask_steps_total"] == pytest.approx(masked, abs=STREAMS)
    # Every piece came in a response of its own or was counted as joined to another; each stream has a final one besides, and
    # so has each renewal of its lease.
    assert grown["ananke_responses_total"] <= pieces + STREAMS + renewals
    assert grown["ananke_responses_total"] + grown["ananke_coalesced_deltas_total"] >= pieces + STREAMS


def test_mask_metrics_and_failures_are_there(server: TritonServer, grpc_client: AnankeInferenceClient) -> None:
    before = settled(server)
    names = ("mask_seconds", "masks_under_50_us", "mask_wait_seconds")
    assert before.keys() >= {f"ananke_{name}_total" for name in names}
    dead_end = ConstraintSpec.all_of(
        ConstraintSpec.grammar('start: "x" part\npart: "(" part ")" | "a"'),
        ConstraintSpec.grammar('start: "x" part\npart: "[" part "]" | "b"'),
    )
    with pytest.raises(DeadEndError):
        list(grpc_client.generate_stream("x", dead_end, GenerationConfig(max_tokens=20)))
    assert eventually(lambda: requests(totals(server), "dead_end", "composite") == requests(before, "dead_end", "composite") + 1)


@pytest.mark.parametrize("model", ["guided_vllm", "guided_relay"])
def test_a_client_that_goes_away_stops_a_generation_called_directly(server: TritonServer, model: str) -> None:
    before = settled(server)
    with AnankeInferenceClient(url=server.grpc_url, model_name=model, timeout=120) as client:
        pieces = client.generate_stream(PROMPT, LONG, LONG_CONFIG)
        next(pieces)
        pieces.close()
        assert eventually(lambda: requests(totals(server), "cancelled", "regex") == requests(before, "cancelled", "regex") + 1)
