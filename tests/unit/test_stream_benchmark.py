"""The benchmark through Triton: what it makes of messages, and what it sends to each side."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest
import stream_perf
from bench_server import CoreShares, on_cores
from core_times import ARRANGEMENTS, cores_of, points_of
from stream_clients import Stream
from stream_results import Results, measures, stream_fault
from stream_workloads import Request
from vllm_backend import make_repository

from ananke_client.grpc_codec import decode_outputs


def test_time_a_token_counts_tokens_and_not_messages() -> None:
    stream = Stream(1.0, [(1.5, 1), (1.6, 1), (1.9, 3), (2.0, 1)])
    assert stream.first_token == 0.5
    assert stream.token_time == pytest.approx(0.5 / 5)
    assert [gap for _, gap in stream.gaps()] == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.1])
    assert stream.messages() == pytest.approx([0.1, 0.3, 0.1])
    point = measures([], [[stream]], 6)
    assert (point["token_ms"], point["tokens_a_message"], point["ended_early"]) == (100.0, 1.5, 0)
    assert point["between_messages_ms"]["max"] == 300.0


def test_results_are_written_and_printed_with_ratios_to_the_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = Results(str(tmp_path / "results.json"), {"device": "none"})
    for side, step in (("generate", 0.11), ("engine", 0.1), ("perf generate", 0.12)):
        rounds = [[Stream(0.0, [(1.0, 1), (1.0 + seconds, 1)])] for seconds in (0.3, step, step + 0.05)]
        results.put(side, "hard", 4, measures(rounds[1] if side == "engine" else [], rounds, 2))
    results.note("a note")
    points = json.loads((tmp_path / "results.json").read_text())["points"]
    assert [point["ratio"] for point in points] == [1.0364, 1.0, 1.0727]
    assert [point["median_ratio"] for point in points] == [1.0667, 1.0, 1.1333]
    assert [point["least_ratio"] for point in points] == [1.1, 1.0, 1.2], "of each side's shortest round"
    results.print()
    printed = capsys.readouterr().out.splitlines()
    assert printed[-4].split()[:7] == ["generate", "hard", "4", "190.000", "1.036", "1.067", "1.100"]
    assert printed[-1] == "note: a note"


@pytest.mark.parametrize(
    ("asked", "server", "clients"),
    [(None, {0, 1, 2, 3}, {0, 1, 2, 3}), (0, {0, 1, 2, 3}, {0, 1, 2, 3}), (1, {0, 2}, {1, 3}), (2, {0, 1, 2, 3}, {0, 1, 2, 3})],
)
def test_hyperthreads_of_a_core_are_on_the_same_side(
    asked: int | None, server: set[int], clients: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench_server.physical", lambda _: [{0, 2}, {1, 3}])
    assert CoreShares.of(asked) == CoreShares(frozenset(server), frozenset(clients))


def test_a_thread_has_its_cores_back_after_a_block() -> None:
    before = os.sched_getaffinity(0)
    with on_cores({min(before)}):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_a_first_message_of_several_tokens_is_left_out_of_the_time_a_token() -> None:
    assert Stream(0.0, [(1.0, 4), (1.2, 2)]).token_time == pytest.approx(0.1)


def test_a_profile_export_of_perf_analyzer_is_read_for_tokens() -> None:
    request = {
        "timestamp": 1_000_000_000,
        "request_inputs": {},
        "response_timestamps": [1_050_000_000, 1_060_000_000, 1_090_000_000, 1_091_000_000],
        "response_outputs": [
            {"num_output_tokens": 1, "text_output": "\x01\x00\x00\x00a"},
            {"num_output_tokens": 1, "text_output": ""},
            {"num_output_tokens": 2, "text_output": ""},
            {"num_output_tokens": 0, "text_output": ""},
        ],
    }
    [stream] = stream_perf.streams_of({"experiments": [{"requests": [request]}]})
    assert (stream.tokens, len(stream.stamps)) == (4, 3)
    assert stream.first_token == pytest.approx(0.05)
    assert stream.token_time == pytest.approx(0.04 / 3)
    assert stream_perf.by_messages([stream])["max"] == pytest.approx(30.0)


def test_sides_are_asked_for_the_same() -> None:
    requests = [Request(kind, "a b", [5, 6], seed=3, max_tokens=20) for kind in ("unconstrained", "hard")]
    for request in requests:
        ours, theirs = request.tensors("generate"), request.tensors("vllm_model")
        ours_sampling, theirs_sampling = (json.loads(str(tensors["sampling_parameters"])) for tensors in (ours, theirs))
        structured = theirs_sampling.pop("structured_outputs", None)
        assert ours_sampling == theirs_sampling
        assert ours_sampling["max_tokens"] == 20
        if request.kind == "hard":
            assert json.loads(structured)["json"] == json.loads(str(ours["constraint"]))["schema"]
            assert "ignore_eos" not in ours_sampling
        else:
            assert structured is None
            assert ours_sampling["ignore_eos"] is True
    assert requests[1].message("generate") != requests[1].message("vllm_model")


def test_an_output_that_ignores_its_constraint_is_a_fault() -> None:
    stamps = [(1.0, 1), (1.1, 1)]
    assert stream_fault(Stream(0.0, stamps, text='[{"text_0":"abc'), "hard") is None
    assert "not enforced" in str(stream_fault(Stream(0.0, stamps, text="Once upon"), "hard"))
    assert stream_fault(Stream(0.0, stamps, text="Once upon"), "unconstrained") is None
    assert stream_fault(Stream(0.0, stamps, error="[internal] x"), "hard") == "[internal] x"
    assert stream_fault(Stream(0.0, stamps[:1]), "hard") == "1 tokens"


def test_the_other_backend_becomes_a_model_of_ours_as_it_lies(tmp_path: Path) -> None:
    source = tmp_path / "vllm_backend"
    (source / "src" / "utils").mkdir(parents=True)
    (source / "src" / "model.py").write_text("import os\n")
    (source / "src" / "utils" / "request.py").write_text("x = 1\n")
    version = make_repository(tmp_path / "repository", source, {"model": "m"}) / "vllm_model" / "1"
    assert (version / "model.py").read_text() == "import compatible\n\nimport os\n"
    assert json.loads((version / "model.json").read_text()) == {"model": "m"}
    assert (version / "utils" / "request.py").is_file()
    with pytest.raises(FileNotFoundError):
        make_repository(tmp_path / "other", tmp_path / "nothing", {})


def test_messages_of_a_stream_are_decoded_by_the_clients_own_codec() -> None:
    from stream_clients import _decode
    from tritonclient.grpc import service_pb2

    def message(text: bytes, tokens: int, metrics: bytes = b"") -> bytes:
        response = service_pb2.ModelStreamInferResponse()
        for name, datatype, raw in (
            ("text_output", "BYTES", len(text).to_bytes(4, "little") + text),
            ("num_output_tokens", "UINT32", tokens.to_bytes(4, "little")),
            ("metrics", "BYTES", len(metrics).to_bytes(4, "little") + metrics),
        ):
            response.infer_response.outputs.add(name=name, datatype=datatype, shape=[1])
            response.infer_response.raw_output_contents.append(raw)
        assert decode_outputs(response.infer_response)
        return bytes(response.SerializeToString())

    failed = service_pb2.ModelStreamInferResponse(error_message="[overloaded] later")
    stream = Stream(0.0)
    last = message(b"", 0, b'{"mask": {"steps": 3, "wait_us_mean": 7.5}, "timing_ms": {}}')
    _decode(stream, [(1.0, message(b"a", 1)), (2.0, message(b"bc", 2)), (3.0, last), (4.0, failed.SerializeToString())])
    assert measures([], [[stream]], 3)["mask"]["wait_us_step"]["mean"] == 7.5
    assert (stream.text, stream.stamps) == ("abc", [(1.0, 1), (2.0, 2)])
    assert "later" in str(stream.error)


def test_a_core_is_the_engines_to_leave_or_to_stay_on_and_nobody_elses() -> None:
    def given(is_engine: bool) -> dict[str, set[int]]:
        return {arrangement: cores_of(arrangement, {0, 1, 2, 3}, {3}, is_engine=is_engine) for arrangement in ARRANGEMENTS}

    assert given(True) == {"shared": {0, 1, 2, 3}, "kept": {0, 1, 2, 3}, "tied": {3}}
    assert given(False) == {"shared": {0, 1, 2, 3}, "kept": {0, 1, 2}, "tied": {0, 1, 2}}


def test_arrangements_are_held_against_the_shared_one() -> None:
    def rounds(*milliseconds: float) -> list[list[Stream]]:
        return [[Stream(0.0, [(1.0, 1), (1.0 + each / 1e3, 1)])] for each in milliseconds]

    measured = {("hard", "tied"): rounds(9, 5, 6), ("hard", "shared"): rounds(10, 10), ("unconstrained", "kept"): rounds(6)}
    unconstrained, shared, tied = points_of(defaultdict(list, measured))
    assert (shared["arrangement"], shared["ratio"], shared["least_ratio"]) == ("shared", 1.0, 1.0)
    assert (tied["arrangement"], tied["token_ms"], tied["median_token_ms"]) == ("tied", 6.6667, 6.0)
    assert (tied["ratio"], tied["median_ratio"], tied["least_ratio"]) == (0.6667, 0.6, 0.5)
    assert unconstrained["token_ms"] == 6.0
    assert "ratio" not in unconstrained, "nothing shared was measured"
