"""The guided engine: takes a request, streams its text, and says at the end whether the constraint holds."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from typing import Any

from vllm import SamplingParams, TokensPrompt
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from ananke_client.errors import (
    AnankeError,
    DeadlineExceededError,
    EngineUnavailableError,
    InvalidRequestError,
)
from ananke_server.constraints import UNCONSTRAINED, CompiledConstraint, Compiler
from ananke_server.constraints.refusal import error_from
from ananke_server.constraints.service import make_compiler
from ananke_server.engine.attempts import Attempt, verification, verified_attempt
from ananke_server.engine.figures import EngineFigures
from ananke_server.engine.life import EngineLife, EngineState, Rest
from ananke_server.engine.outputs import generate
from ananke_server.engine.prompt import PromptEncoder, require_size
from ananke_server.engine.request import Delta, Emit, GenerateRequest, GenerateResult
from ananke_server.engine.sampling import sampling_params
from ananke_server.engine.start import device_name, start_engine
from ananke_server.engine.timeline import Timeline
from ananke_server.engine.verdict import Judge, report_with
from ananke_server.engine.vllm_engine import VllmEngine
from ananke_server.fairness.admission import Admission
from ananke_server.fairness.threads import FairThreads
from ananke_server.fairness.waiting_room import Stay, WaitingRoom
from ananke_server.handover import Seal
from ananke_server.masking.tokenizer import served_tokenizer
from ananke_server.provenance.identity import DigestCache, ModelIdentity
from ananke_server.provenance.notary import Content, Notary
from ananke_server.provenance.predicate import EngineFacts, FinishedGeneration, predicate
from ananke_server.provenance.signing import KEY_VARIABLE
from ananke_server.provenance.surroundings import versions
from ananke_server.settings import Settings

# Threads that wait for the sandbox, or for a validator at work on a hostile schema: never those that others need.
COMPILATIONS = 32
JUDGEMENTS = 8


class GuidedEngine:
    """vLLM behind guides. Every method belongs to the event loop that ``start`` ran on.

    Args:
        life: has been opened.
        llm: the first that lives in it: each one after it is configured as it is.
        figures: where each of them writes its own.
    """

    def __init__(self, settings: Settings, seal: Seal, life: EngineLife, llm: Any, notary: Notary, figures: EngineFigures) -> None:
        config = llm.vllm_config
        self.settings = settings
        self.pending = 0
        """Requests taken and not yet answered."""
        self.compiler = make_compiler(settings)
        """For what comes without validate's seal."""
        self._started = time.monotonic()
        self._seal = seal
        self._room = WaitingRoom()
        self._admission = Admission(settings.concurrency or settings.max_num_seqs)
        self.life = life
        self.figures = figures
        self._prompts = PromptEncoder(llm.get_tokenizer())
        self._compilations = FairThreads(COMPILATIONS, "ananke-compile")
        self._judgements = FairThreads(JUDGEMENTS, "ananke-judge")
        self._judge = Judge(Compiler(served_tokenizer(config.model_config), settings.limits), self.compiler.compile)
        self._context = int(config.model_config.max_model_len)
        self._notary = notary
        cache = DigestCache(settings.digest_cache)
        identity = ModelIdentity.of(settings.model, settings.revision, tokenizer=config.model_config.tokenizer, cache=cache)
        self._facts = EngineFacts.of(identity, config, device_name())

    @classmethod
    async def start(cls, settings: Settings, seal: Seal) -> GuidedEngine:
        """Start vLLM and wait until it can generate.

        Raises:
            SigningKeyError: the signing key cannot be used.
            LogError: the provenance log cannot be opened.
        """
        async with AsyncExitStack() as opened:
            notary = Notary.of(settings)
            opened.callback(notary.close)
            os.environ.pop(KEY_VARIABLE, None)  # which vLLM's processes would inherit
            figures = EngineFigures()
            life = EngineLife(lambda: start_engine(settings, figures), Rest(settings.idle_timeout, settings.sleep_level))
            first = await life.open()
            opened.push_async_callback(life.close)
            engine = cls(settings, seal, life, first.llm, notary, figures)
            opened.pop_all()
        return engine

    @property
    def running(self) -> int:
        """Requests taken and not yet answered, or known to vLLM; may be read from any thread."""
        engine = self.life.current
        return max(self.pending, 0 if engine is None else engine.unfinished)

    @property
    def waiting(self) -> int:
        """Requests that are not in the engine's batch yet, or not again; may be read from any thread."""
        return len(self._room) + self._admission.returning + self.figures.waiting

    @property
    def state(self) -> EngineState:
        """Where the engine is in its life; may be read from any thread, and wakes nothing."""
        return self.life.state

    def status(self) -> dict[str, Any]:
        """What an operator asks first, as ``ananke_client.health.EngineStatus`` reads it; costs microseconds, and wakes nothing."""
        model, figures = self._facts.model, self.figures
        return {
            "state": self.state,
            "ready": self.state.serves,
            "model": model["name"],
            "revision": model["revision"],
            "device": self._facts.device,
            "versions": versions(),
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "restarts": self.life.restarts,
            "pending": self.pending,
            "max_pending": self.settings.max_pending,
            "running": figures.running,
            "waiting": self.waiting,
            "kv_cache_usage": round(figures.kv_cache_usage, 4),
        }

    async def shutdown(self) -> None:
        """Stop vLLM's processes, and let go of the sandbox."""
        await self.life.close()
        for threads in (self._compilations, self._judgements):
            threads.close()
        self._prompts.close()
        self.compiler.close()
        self._notary.close()

    async def generate(self, request: GenerateRequest, emit: Emit, timeline: Timeline | None = None) -> GenerateResult:
        """Generate, handing each piece of text to ``emit``; the last piece has been handed over when this returns.

        Cancelling the task stops the generation in the engine. ``timeline`` is filled on the way, whatever comes of the request.

        Raises:
            AnankeError: with the code of whatever went wrong.
        """
        require_size(request.prompt, self.settings.max_prompt_bytes)
        if self.pending >= self.settings.max_pending:
            self._room.make_room(request.client)
        timeline = timeline or Timeline()
        timeout = request.timeout or self.settings.request_timeout
        self.pending += 1
        try:
            async with asyncio.timeout(timeout), self._room.stay(request.client) as stay:
                return await self._generate(request, emit, timeline, stay)
        except TimeoutError:
            raise DeadlineExceededError(f"no end within {timeout:g} s; {timeline.tokens} tokens were generated") from None
        except (EngineDeadError, EngineGenerateError, VLLMClientError) as fault:
            raise _translated(fault) from fault
        finally:
            self.pending -= 1

    async def _generate(self, request: GenerateRequest, emit: Emit, timeline: Timeline, stay: Stay) -> GenerateResult:
        compiled = await self._constraint(request)
        timeline.learn(compiled.report)
        if not compiled.report.accepted:
            raise error_from(compiled.report.errors)
        constrained = compiled.grammar is not None
        prompt = await self._prompts.tokens(request.prompt, request.client)
        timeline.input_tokens = len(prompt)
        if len(prompt) >= self._context:
            raise InvalidRequestError(f"text_input: {len(prompt)} tokens leave no room in the model's context of {self._context}")
        params = sampling_params(
            request.sampling_parameters, self.settings, constrained=constrained, context_left=self._context - len(prompt)
        )
        is_verified = compiled.report.guarantee == "verified"
        if not _comes_in_pieces(params, leaves_in_pieces=request.stream and not is_verified):
            params.output_kind = RequestOutputKind.FINAL_ONLY
        echo = _echoed_prompt(request, constrained)
        if echo:
            emit(Delta(echo, 0))

        async def sample(tried: SamplingParams, number: int, pass_on: Emit) -> Attempt:
            request_id = request.request_id if number == 1 else f"{request.request_id}-{number}"
            async with (
                self._admission.place(request.client, again=number > 1),
                self.life.engine() as engine,
                engine.guide(compiled, tried) as hold,
            ):
                stay.over()
                timeline.admit()
                last = await _run(engine, request_id, prompt, tried, pass_on, timeline)
                timeline.finish()
                outcome = None if hold is None else await hold.finish()
            finished = (request.constraint, compiled, timeline.text, timeline.token_ids, last)
            verdict = await self._judgements.run(request.client, self._judge.verdict, *finished)
            return Attempt(tried, last, outcome, verdict, first_seed=params.seed)

        metrics: dict[str, Any] = {}
        if is_verified:
            attempt = await verified_attempt(sample, params, bound=self.settings.verify_attempts, emit=emit, timeline=timeline)
            metrics["verification"] = verification(attempt, timeline)
        else:
            attempt = await sample(params, 1, emit)
        timeline.is_cut = attempt.verdict is not None and attempt.verdict.is_cut
        report = report_with(attempt.verdict, compiled.report)
        metrics |= timeline.metrics(attempt.outcome)
        finished = FinishedGeneration(request, attempt, len(prompt), report, timeline, metrics, bool(echo))
        content = Content(request.prompt, request.constraint, timeline.text)
        envelope, logged = await self._notary.attest(lambda: predicate(finished, self._facts), echo + timeline.text, content)
        if logged is not None:
            metrics["provenance_log"] = logged
        return GenerateResult(
            finish_reason=str(attempt.last.finish_reason),
            input_tokens=len(prompt),
            cumulative_logprob=attempt.last.cumulative_logprob,
            report=report,
            envelope=envelope,
            metrics=metrics,
        )

    async def _constraint(self, request: GenerateRequest) -> CompiledConstraint:
        """The request's constraint, accepted or not, from under validate's seal or compiled here."""
        compiled = None if request.sealed is None else self._seal.open(request.constraint, request.sealed)
        if compiled is None and request.constraint is None:
            if request.sealed is not None:
                raise InvalidRequestError("compiled: not from this server's validate model; send 'constraint'")
            return UNCONSTRAINED
        if compiled is None:
            compiled = await self._compilations.run(request.client, self.compiler.compile, str(request.constraint), request.client)
        return compiled


async def _run(
    engine: VllmEngine, request_id: str, prompt: list[int], params: SamplingParams, emit: Emit, timeline: Timeline
) -> CompletionOutput:
    """Generate to the end; returns vLLM's last output."""
    last: CompletionOutput | None = None
    is_whole = params.output_kind is RequestOutputKind.FINAL_ONLY

    def take(response: RequestOutput) -> None:
        nonlocal last
        last = response.outputs[0]
        delta = Delta(last.text, len(last.token_ids), _logprobs(last.logprobs))
        stats = response.metrics
        timeline.add(delta, last.token_ids, stats, first_token_at=stats.first_token_ts if is_whole else time.monotonic())
        emit(delta)

    await generate(engine.llm, TokensPrompt(prompt_token_ids=prompt), params, request_id, take)
    assert last is not None
    return last


def _comes_in_pieces(params: SamplingParams, *, leaves_in_pieces: bool) -> bool:
    """Whether vLLM is asked for an output for each step; one at the end costs the event loop nothing until then.

    Log-probabilities are never asked for at once: reading those of a long output would hold up all streams.
    """
    return leaves_in_pieces or params.logprobs is not None


def _translated(fault: Exception) -> AnankeError:
    if isinstance(fault, VLLMValidationError):
        return InvalidRequestError(str(fault))
    if isinstance(fault, EngineDeadError):
        return EngineUnavailableError("the engine has died; it is started again")
    return EngineUnavailableError(f"the engine failed in this request: {fault}")


def _echoed_prompt(request: GenerateRequest, constrained: bool) -> str:
    """The prompt, where it goes before the output: as in Triton's vLLM backend, but by default never with a constraint."""
    excluded = request.exclude_input_in_output
    if excluded is None:
        excluded = constrained or request.stream
    if not excluded and request.stream:
        raise InvalidRequestError("exclude_input_in_output: false is not possible when streaming")
    return "" if excluded else request.prompt


def _logprobs(logprobs: Any) -> list[dict[str, Any]] | None:
    """vLLM's log-probabilities as Triton's vLLM backend writes them: for each position, by token id."""
    if logprobs is None:
        return None
    return [
        {
            str(token): {"logprob": entry.logprob, "rank": entry.rank, "decoded_token": entry.decoded_token}
            for token, entry in position.items()
        }
        for position in logprobs
    ]
