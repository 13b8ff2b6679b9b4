"""The engine on a scripted vLLM: constraints, guides, verification and what a result says, on the real tokenizer and compiler."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pytest
from provenance_support import Key
from waiting import PATIENCE

pytest.importorskip("vllm")

from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.output_processor import RequestOutputCollector

from ananke_client import EngineStatus
from ananke_client.errors import AnankeError, DeadEndError, DeadlineExceededError, OverloadedError, VerificationFailedError
from ananke_client.provenance import Envelope, Evidence, sha256, verify
from ananke_client.report import ConstraintReport
from ananke_server.constraints import UNCONSTRAINED, CompiledConstraint, Compiler
from ananke_server.engine import engine as engine_module
from ananke_server.engine import prompt as prompt_module
from ananke_server.engine.attempts import seed_of
from ananke_server.engine.engine import GuidedEngine
from ananke_server.engine.figures import EngineFigures
from ananke_server.engine.life import EngineLife, EngineState, Rest
from ananke_server.engine.prompt import LONG_PROMPT
from ananke_server.engine.request import Delta, GenerateRequest, GenerateResult
from ananke_server.engine.timeline import Timeline
from ananke_server.engine.vllm_engine import VllmEngine
from ananke_server.handover import Seal
from ananke_server.masking.tickets import Failure, Outcome, Ticket
from ananke_server.masking.tokenizer import model_tokenizer
from ananke_server.provenance.log import LogError, ProvenanceLog
from ananke_server.provenance.notary import Notary
from ananke_server.provenance.signing import SigningKeyError
from ananke_server.settings import Settings

SMALL_MODEL = Path(__file__).parents[2] / ".ananke" / "models" / "SmolLM2-135M-Instruct"
pytestmark = pytest.mark.skipif(not SMALL_MODEL.is_dir(), reason="the small model has not been made")

EOS = 2
DISTINCT = json.dumps({"type": "json_schema", "schema": {"type": "array", "uniqueItems": True}, "unsupported": "verify"})
PAIR = "start: /\\[[1-3],[1-3]\\]/"
"""What a mask can say of it: stands for the compiler's own relaxation, which this file does not depend on."""
SEAL = Seal(b"s" * 32)


@dataclass
class Script:
    """Stands for vLLM and the mask processes: answers each request with the next text, or fails it, and keeps what it was asked."""

    answers: list[str | Failure]
    finish_reason: str = "stop"
    stop_reason: str | None = None
    pause: float = 0.0
    asked: list[tuple[str, Any]] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)
    failures: dict[int, Failure] = field(default_factory=dict)
    """By ticket."""
    released: list[list[int]] = field(default_factory=list)
    processes: int = 1
    vllm_config: Any = field(
        default_factory=lambda: SimpleNamespace(
            model_config=SimpleNamespace(
                max_model_len=500, tokenizer=str(SMALL_MODEL), dtype="torch.float32", quantization=None, enforce_eager=True
            ),
            parallel_config=SimpleNamespace(world_size=1, tensor_parallel_size=1, pipeline_parallel_size=1),
        )
    )
    errored: bool = False
    is_dead: bool = False
    slept: list[str] = field(default_factory=list)
    under_way: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def start(self) -> VllmEngine:
        crew: Any = self
        return VllmEngine(self, crew, can_sleep=True)

    async def sleep(self, level: int) -> None:
        self.slept.append("sleep")

    async def wake_up(self) -> None:
        self.slept.append("wake")

    def get_tokenizer(self) -> Any:
        return SimpleNamespace(encode=lambda text, **_: list(range(len(text))))

    async def prepare(self, ticket: Ticket, program: str, *, of_schema: bool) -> tuple[Failure, str]:
        self.programs.append(program)
        return Failure.NONE, ""

    def release(self, ticket: Ticket) -> asyncio.Future[Outcome]:
        self.released.append(list(ticket))
        failure = self.failures.get(ticket.number, Failure.NONE)
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        outcome.set_result(Outcome(failure, "no token can follow" if failure else "", steps=3))
        return outcome

    async def add_request(self, request_id: str, prompt: Any, params: Any) -> RequestOutputCollector:
        self.asked.append((request_id, params))
        answer = self.answers.pop(0)
        if isinstance(answer, Failure):
            number, _ = params.extra_args["ananke"]
            self.failures[number] = answer
            answer = ""
        collector = RequestOutputCollector(params.output_kind, request_id)
        self.under_way[request_id] = asyncio.create_task(self._answer(collector, answer, len(self.asked)))
        return collector

    async def abort(self, request_id: str) -> None:
        self.under_way.pop(request_id).cancel()

    async def _answer(self, collector: RequestOutputCollector, answer: str, number: int) -> None:
        metrics: Any = SimpleNamespace(scheduled_ts=time.monotonic(), first_token_ts=time.monotonic())
        await asyncio.sleep(self.pause)
        tokens = model_tokenizer(str(SMALL_MODEL)).tokenize_str(answer)
        middle = len(answer) // 2
        pieces = [(answer[:middle], tokens, None), (answer[middle:], [EOS], self.finish_reason)]
        if not collector.aggregate:
            pieces = [(answer, [*tokens, EOS], self.finish_reason)]
        for text, ids, reason in pieces:
            output: Any = {"text": text, "token_ids": ids, "logprobs": None, "cumulative_logprob": -float(number)}
            output |= {"finish_reason": reason, "stop_reason": self.stop_reason if reason else None}
            response: Any = SimpleNamespace(outputs=[SimpleNamespace(**output)], metrics=metrics, finished=reason is not None)
            collector.put(response)


def predicate_of(result: GenerateResult) -> dict[str, Any]:
    predicate: dict[str, Any] = Envelope.parse(result.envelope).statement["predicate"]
    return predicate


async def engine_of(script: Script, notary: Notary | None = None, rest: Rest | None = None, **settings: Any) -> GuidedEngine:
    """The engine on a script, compiling in this process."""
    compiler = Compiler(model_tokenizer(str(SMALL_MODEL)))
    in_process = SimpleNamespace(compile=lambda text, _client="": compiler.compile(text), close=lambda: None)
    with (
        patch.object(engine_module, "served_tokenizer", lambda _: model_tokenizer(str(SMALL_MODEL))),
        patch.object(engine_module, "make_compiler", lambda _: in_process),
    ):
        life = EngineLife(script.start, rest or Rest(None, 0))
        await life.open()
        served = Settings(model=str(SMALL_MODEL), **settings)
        return GuidedEngine(served, SEAL, life, script, notary or Notary(), EngineFigures())


def answered(
    script: Script, request: GenerateRequest, notary: Notary | None = None, **settings: Any
) -> tuple[GenerateResult, list[Delta]]:
    """The result of a request and what was emitted; every ticket has to be back."""
    emitted: list[Delta] = []

    async def scenario() -> GenerateResult:
        engine = await engine_of(script, notary, **settings)
        with patch.object(prompt_module, "prompt_tokens", lambda _, prompt: list(range(len(prompt)))):
            try:
                return await engine.generate(request, emitted.append)
            finally:
                assert engine.pending == 0
                constrained = [params.extra_args["ananke"] for _, params in script.asked if params.extra_args]
                async with asyncio.timeout(PATIENCE):
                    while script.released != constrained:
                        await asyncio.sleep(0.001)

    try:
        return asyncio.run(scenario()), emitted
    except AnankeError as error:
        error.emitted = emitted  # type: ignore[attr-defined]
        raise


def request(*, guarantee: str = "verified", parameters: dict[str, Any] | None = None, **values: Any) -> GenerateRequest:
    compiled = CompiledConstraint(ConstraintReport(accepted=True, kind="json_schema", guarantee=guarantee), PAIR)  # type: ignore[arg-type]
    given = json.dumps({"seed": 11, "temperature": 1.0} | (parameters or {}))
    constraint = {"constraint": DISTINCT, "sealed": SEAL.close(DISTINCT, compiled)}
    return GenerateRequest(request_id="r", prompt="Pair: ", sampling_parameters=given, **(constraint | values))


def test_a_verified_output_is_sampled_until_it_passes() -> None:
    script = Script(["[1,1]", "[3,3]", "[1,2]", "[2,1]"])
    result, emitted = answered(script, request(stream=True))
    assert [delta.text for delta in emitted] == ["[1,2]"], "buffered, and handed on in one piece"
    assert result.report.constraint_satisfied is True
    assert result.report.unsatisfied_reason is None
    assert [name for name, _ in script.asked] == ["r", "r-2", "r-3"]
    assert [params.seed for _, params in script.asked] == [11, seed_of(11, 2), seed_of(11, 3)]
    assert result.cumulative_logprob == -3.0, "of the accepted attempt"
    tokens = emitted[0].tokens
    verification = result.metrics["verification"]
    assert (verification["attempts"], verification["tokens"]) == (3, 3 * tokens)
    assert len(verification["faults"]) == 2
    predicate = predicate_of(result)
    assert predicate["verification"] == {"attempts": 3, "first_seed": 11}
    assert predicate["sampling_parameters"]["seed"] == seed_of(11, 3), "which gives this output again at the first attempt"
    assert predicate["output"]["tokens"] == tokens
    tickets = [tuple(params.extra_args["ananke"]) for _, params in script.asked]
    assert len({*tickets}) == 3, "a guide of its own for each attempt"


def test_a_verified_output_that_passes_at_once_is_buffered_too() -> None:
    result, emitted = answered(Script(["[1,2]"]), request(stream=True))
    assert [delta.text for delta in emitted] == ["[1,2]"]
    assert result.metrics["verification"]["attempts"] == 1
    assert predicate_of(result)["sampling_parameters"]["seed"] == 11


@pytest.mark.parametrize(
    ("guarantee", "stream", "logprobs", "in_pieces"),
    [("exact", True, None, True), ("exact", False, None, False), ("verified", True, None, False), ("exact", False, 2, True)],
)
def test_vllm_is_asked_for_pieces_where_they_leave_at_once(guarantee: str, stream: bool, logprobs: int | None, in_pieces: bool) -> None:
    script = Script(["[1,2]"], pause=1.0)
    result, emitted = answered(script, request(guarantee=guarantee, stream=stream, parameters={"logprobs": logprobs}))
    assert [delta.text for delta in emitted] == (["[1", ",2]"] if in_pieces else ["[1,2]"])
    [(_, params)] = script.asked
    assert params.output_kind is (RequestOutputKind.DELTA if in_pieces else RequestOutputKind.FINAL_ONLY)
    timing = result.metrics["timing_ms"]
    if in_pieces:
        assert timing["first_token"] - timing["admitted"] >= 1000, "when it is there"
    else:
        assert timing["first_token"] - timing["admitted"] < 900, "when the engine had it"


@pytest.mark.parametrize("bound", [1, 3])
def test_where_no_output_passes_the_error_names_the_fault(bound: int) -> None:
    script = Script(["[1,1]"] * 5)
    with pytest.raises(VerificationFailedError, match="unique") as failed:
        answered(script, request(), verify_attempts=bound)
    assert len(script.asked) == bound
    assert not failed.value.emitted  # type: ignore[attr-defined]


def test_a_cut_output_is_reported_and_not_sampled_again() -> None:
    script = Script(["[1,", "[1,2]"], finish_reason="length")
    result, emitted = answered(script, request())
    assert [delta.text for delta in emitted] == ["[1,"]
    assert (result.finish_reason, result.report.constraint_satisfied) == ("length", False)
    assert "cut by max_tokens" in str(result.report.unsatisfied_reason)


def test_an_output_cut_by_a_stop_string_is_judged_where_its_mask_is_satisfied() -> None:
    result, emitted = answered(Script(["[1,", "[1,2]"], stop_reason="2"), request(parameters={"stop": "2"}))
    assert (result.report.constraint_satisfied, [delta.text for delta in emitted]) == (False, ["[1,"])
    result, emitted = answered(Script(["[1,1]", "[1,2]"], stop_reason="x"), request(parameters={"stop": "x"}))
    assert (result.report.constraint_satisfied, [delta.text for delta in emitted]) == (True, ["[1,2]"])


def test_a_dead_end_counts_as_an_attempt_only_where_outputs_are_verified() -> None:
    result, _ = answered(Script([Failure.DEAD_END, "[1,2]"]), request())
    assert result.metrics["verification"]["faults"] == ["no token can follow"]
    with pytest.raises(DeadEndError):
        answered(Script([Failure.DEAD_END, "[1,2]"]), request(guarantee="exact"))


def test_an_exact_output_streams_and_has_one_attempt_even_where_the_validator_objects() -> None:
    script = Script(["[1,1]", "[1,2]"])
    result, emitted = answered(script, request(guarantee="exact", stream=True))
    assert len(emitted) == 2
    assert len(script.asked) == 1
    assert result.report.constraint_satisfied is False
    assert "verification" not in result.metrics
    assert predicate_of(result)["verification"] is None


def test_the_deadline_bounds_all_attempts_together() -> None:
    script = Script(["[1,1]"] * 100, pause=0.2)
    with pytest.raises(DeadlineExceededError, match=r"within 3 s; \d+ tokens"):
        answered(script, request(timeout=3.0), verify_attempts=100)
    assert 1 < len(script.asked) < 17


def test_greedy_sampling_is_judged_once() -> None:
    script = Script(["[1,1]", "[1,2]"])
    with pytest.raises(VerificationFailedError):
        answered(script, request(parameters={"temperature": 0.0}))
    assert len(script.asked) == 1


def test_side_by_side_constraints_are_judged_by_all_of_their_grammars() -> None:
    constraint = json.dumps({"type": "choice", "choices": ["[1,2]", "[1,1]"]})
    program = json.dumps({"all": [PAIR, "start: /\\[[12],[23]\\]/"]})
    sealed = SEAL.close(constraint, CompiledConstraint(ConstraintReport(accepted=True, kind="composite", guarantee="exact"), program))
    for text, satisfied in (("[1,2]", True), ("[3,2]", False), ("[1,1]", False)):
        result, _ = answered(Script([text]), request(constraint=constraint, sealed=sealed))
        assert result.report.constraint_satisfied is satisfied
    assert Compiler(model_tokenizer(str(SMALL_MODEL))).satisfies_text(program, "[2,3]")


@pytest.mark.parametrize("sealed", [None, b"0" * 64 + b'{"constraint": null, "grammar": "start: /x/"}', SEAL.close(None, UNCONSTRAINED)])
def test_without_its_seal_a_constraint_is_compiled_here(sealed: bytes | None) -> None:
    script = Script(["[1,1]", "[1,2]"])
    result, emitted = answered(script, request(sealed=sealed))
    assert [delta.text for delta in emitted] == ["[1,2]"]
    assert (result.report.guarantee, result.report.constraint_satisfied) == ("verified", True)
    assert [finding.pointer for finding in result.report.relaxed] == ["/schema/uniqueItems"]
    assert len(script.programs) == 2
    assert len({*script.programs}) == 1


def test_an_alternative_is_judged_by_its_own_grammar() -> None:
    """The mask of ``any`` admits ``[1,1]`` through the relaxed schema, though neither the schema nor the regex does."""
    either = {"type": "composite", "mode": "any", "constraints": [json.loads(DISTINCT), {"type": "regex", "pattern": "none|\\[2,2\\]"}]}
    constraint = json.dumps(either)
    program = json.dumps({"any": [PAIR, "start: /none|\\[2,2\\]/"]})
    sealed = SEAL.close(constraint, CompiledConstraint(ConstraintReport(accepted=True, kind="composite", guarantee="verified"), program))
    for text in ("[2,2]", "none", "[1,3]"):
        result, emitted = answered(Script(["[1,1]", text]), request(constraint=constraint, sealed=sealed))
        assert [delta.text for delta in emitted] == [text]
        assert result.metrics["verification"]["attempts"] == 2


def test_an_envelope_is_signed_and_verifies() -> None:
    key = Key()
    result, emitted = answered(Script(["[1,1]", "[1,2]"]), request(parameters={"seed": 2**60}), Notary(key.signer))
    evidence = Evidence(
        output=b"[1,2]",
        prompt=b"Pair: ",
        report=result.report.model_dump_json().encode(),
        public_keys={"key": key.public_pem},
    )
    verification = verify(result.envelope, evidence)
    assert verification.result == "verified", verification.checks
    assert verification.statement is not None
    predicate = verification.statement.predicate
    assert predicate.constraint is not None
    assert predicate.constraint.sha256 == sha256(DISTINCT)
    assert predicate.verification is not None
    assert predicate.verification.first_seed == str(2**60), "beyond what every JSON reader can hold"
    assert predicate.timing_ms == result.metrics["timing_ms"]
    assert predicate.output.tokens == emitted[0].tokens
    assert predicate.received_at <= predicate.finished_at
    assert predicate.signer == key.keyid


def test_without_a_key_the_envelope_says_that_it_is_unsigned() -> None:
    result, _ = answered(Script(["[1,2]"]), request())
    assert Envelope.parse(result.envelope).signatures == ()
    assert predicate_of(result)["signer"] is None
    assert "provenance_log" not in result.metrics


def test_an_output_behind_its_prompt_is_recorded_as_such() -> None:
    result, emitted = answered(Script(["[1,2]"]), request(exclude_input_in_output=False))
    assert [delta.text for delta in emitted] == ["Pair: ", "[1,2]"]
    assert predicate_of(result)["output"]["includes_prompt"] is True
    assert verify(result.envelope, Evidence(output=b"Pair: [1,2]")).failed == ()


@pytest.mark.parametrize("logs_content", [False, True])
def test_a_finished_request_has_its_line_in_the_log(tmp_path: Path, logs_content: bool) -> None:
    log = ProvenanceLog(tmp_path / "log", max_bytes=1 << 20, files=1, fsync="always")
    result, _ = answered(Script(["[1,2]"]), request(), Notary(log=log, logs_content=logs_content))
    log.close()
    assert result.metrics["provenance_log"] == {"line": "written", "lost": 0, "error": None}
    [line] = (tmp_path / "log").read_bytes().splitlines()
    content = json.loads(line)
    assert line.startswith(b'{"envelope":' + result.envelope), "as it was sent, to the byte"
    del content["envelope"]
    assert content == ({"prompt": "Pair: ", "constraint": DISTINCT, "output": "[1,2]"} if logs_content else {})
    assert (b"Pair: " in line) is logs_content


def test_a_log_that_cannot_be_written_is_told_with_the_answer(tmp_path: Path) -> None:
    log = ProvenanceLog(tmp_path / "log", max_bytes=1 << 20, files=1, fsync="always")
    full = OSError(errno.ENOSPC, "No space left on device")
    with patch("ananke_server.provenance.log.os.write", side_effect=full):
        result, emitted = answered(Script(["[1,2]"]), request(), Notary(log=log))
    assert [delta.text for delta in emitted] == ["[1,2]"]
    assert result.metrics["provenance_log"] == {"line": "lost", "lost": 1, "error": "No space left on device"}
    log.close()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"signing_key_file": "/nowhere/key.pem"}, "ANANKE_SIGNING_KEY_FILE: /nowhere/key.pem"), ({"provenance_log": "/proc/log"}, "log")],
)
def test_a_bad_key_or_log_ends_the_start_before_vllm_starts(settings: dict[str, str], reason: str) -> None:
    with (
        patch.object(engine_module, "start_engine", side_effect=AssertionError("vLLM was started")),
        pytest.raises((SigningKeyError, LogError), match=reason) as failed,
    ):
        asyncio.run(GuidedEngine.start(Settings(model=str(SMALL_MODEL), **settings), SEAL))  # type: ignore[arg-type]
    assert "\n" not in str(failed.value)


def test_the_timeline_has_what_a_request_came_to_whatever_became_of_it() -> None:
    def filled(script: Script, asked: GenerateRequest) -> Timeline:
        timeline = Timeline()

        async def scenario() -> None:
            with patch.object(prompt_module, "prompt_tokens", lambda _, prompt: [1, 2, 3]), suppress(AnankeError):
                await (await engine_of(script)).generate(asked, lambda _: None, timeline)

        asyncio.run(scenario())
        return timeline

    verified = filled(Script(["[1,1]", "[1,2]"]), request())
    assert (verified.kind, verified.guarantee, verified.input_tokens, len(verified.runs)) == ("json_schema", "verified", 3, 2)
    moments = [verified.arrived, verified.admitted, verified.scheduled, verified.runs[0].finished, verified.first_token, verified.finished]
    assert moments == sorted(moments)  # type: ignore[type-var]
    assert filled(Script([]), GenerateRequest("r", "x", constraint='{"type": "regex", "pattern": "("}')).kind == "regex"
    assert filled(Script([]), GenerateRequest("r", "x", constraint="{")).kind == "unknown"
    assert filled(Script(["a"]), GenerateRequest("r", "x")).kind == "none"
    cut = filled(Script(["[1,"], finish_reason="length"), request())
    assert cut.is_cut
    assert not verified.is_cut


@pytest.mark.parametrize("what", ["prompts", "constraints"])
def test_what_one_client_has_being_prepared_keeps_no_other_out(what: str) -> None:
    """The queue is full of requests that are in no line for the engine, which has nothing to do."""
    let_go = threading.Event()

    def held(*_: Any) -> Any:
        assert let_go.wait(PATIENCE)
        return [1] if what == "prompts" else UNCONSTRAINED

    async def scenario() -> None:
        engine = await engine_of(Script(["abc"] * 4), max_pending=4)
        engine.compiler = cast(Any, SimpleNamespace(compile=held, close=lambda: None))
        slow = GenerateRequest("", "x" * (LONG_PROMPT + 1)) if what == "prompts" else GenerateRequest("", "x", constraint="{}")
        flood = [asyncio.create_task(engine.generate(replace(slow, request_id=str(n), client="a"), ignore)) for n in range(4)]
        await asyncio.sleep(0)
        assert engine.waiting == 4
        with pytest.raises(OverloadedError):
            await engine.generate(replace(slow, request_id="too many", client="a"), ignore)
        assert (await engine.generate(GenerateRequest("b", "hi", client="b"), ignore)).finish_reason == "stop"
        with pytest.raises(OverloadedError, match="other clients have fewer"):
            await flood.pop()
        let_go.set()
        assert {result.finish_reason for result in await asyncio.gather(*flood)} == {"stop"}
        assert (engine.pending, engine.waiting) == (0, 0)

    def ignore(_: Delta) -> None:
        pass

    def tokens(_: Any, prompt: str) -> list[int]:
        return [1] if len(prompt) < LONG_PROMPT else cast("list[int]", held())

    with patch.object(prompt_module, "prompt_tokens", tokens):
        asyncio.run(scenario())


def test_the_queue_is_bounded_and_fair_while_the_engine_wakes() -> None:
    async def scenario() -> None:
        script, may_wake = Script(["abc"] * 4), asyncio.Event()
        with patch.object(script, "wake_up", may_wake.wait, create=True):
            engine = await engine_of(script, rest=Rest(0.01, 1), max_pending=4)
            while engine.state is not EngineState.ASLEEP:
                await asyncio.sleep(0.01)
            flood = [ask(engine, str(number), client="a") for number in range(4)]
            while engine.state is not EngineState.WAKING:
                await asyncio.sleep(0.01)
            with pytest.raises(OverloadedError, match="too many requests are pending"):
                await ask(engine, "too many", client="a")
            other = ask(engine, "other", client="b")
            with pytest.raises(OverloadedError, match="other clients have fewer"):
                await flood.pop()
            assert (engine.state, engine.waiting) == (EngineState.WAKING, 4)
            may_wake.set()
            assert {result.finish_reason for result in await asyncio.gather(*flood, other)} == {"stop"}

    def ask(engine: GuidedEngine, name: str, client: str) -> asyncio.Task[GenerateResult]:
        return asyncio.create_task(engine.generate(GenerateRequest(name, "hi", client=client), lambda _: None))

    with patch.object(prompt_module, "prompt_tokens", lambda _, prompt: [1]):
        asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


def test_the_status_says_what_serves_and_what_is_left_of_it() -> None:
    async def scenario() -> None:
        engine = await engine_of(Script([]), max_pending=5)
        engine.figures.running, engine.figures.waiting, engine.figures.kv_cache_usage = 2, 1, 0.5
        status = engine.status()
        assert (status["state"], status["ready"], status["restarts"], status["max_pending"]) == ("running", True, 0, 5)
        assert (status["model"], status["running"], status["waiting"], status["kv_cache_usage"]) == (SMALL_MODEL.name, 2, 1, 0.5)
        assert EngineStatus.parse(json.dumps(status)).uptime_seconds >= 0
        ready = {}
        for engine.life.state in EngineState:
            ready[engine.life.state] = engine.status()["ready"]
        assert {state for state, serves in ready.items() if serves} == {"running", "falling_asleep", "asleep", "waking"}

    asyncio.run(scenario())


def test_the_status_of_an_engine_that_sleeps_leaves_it_asleep() -> None:
    async def scenario() -> None:
        script = Script(["abc"])
        engine = await engine_of(script, rest=Rest(0.01, 1))
        async with asyncio.timeout(PATIENCE):
            while engine.state is not EngineState.ASLEEP:
                await asyncio.sleep(0.01)
        for _ in range(3):
            assert (engine.status()["state"], engine.status()["ready"]) == ("asleep", True)
            await asyncio.sleep(0.3)
        assert script.slept == ["sleep"]
        with patch.object(prompt_module, "prompt_tokens", lambda _, prompt: [1]):
            await engine.generate(GenerateRequest("r", "x"), lambda _: None)
        assert script.slept == ["sleep", "wake"]

    asyncio.run(scenario())
