"""Offline: constraints compiled and texts replayed for a command line, in forked processes that may be killed."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llguidance import LLTokenizer

from ananke_client.constraint import Constraint
from ananke_client.errors import ErrorCode
from ananke_client.report import ConstraintReport
from ananke_server.constraints.compiled import CompiledConstraint, Compiler
from ananke_server.constraints.limits import Limits
from ananke_server.constraints.refusal import refuse
from ananke_server.constraints.sandbox.worker import OUT_OF_MEMORY, data_bytes
from ananke_server.constraints.verify import fault_of, has_validator
from ananke_server.masking.program_matcher import new_program
from ananke_server.masking.tokenizer import TokenizerSource, model_tokenizer

REPLAY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Replay:
    """How far a fresh matcher follows a text."""

    satisfied: bool
    offset: int | None = None
    """Bytes that it takes, where it does not take all of them."""


class LimitError(Exception):
    """A job took too long, too much memory, or ended its process."""


class JobError(Exception):
    """A job raised an exception: a fault of the program."""


class OfflineCompiler:
    """Compiles and replays as the server does, with a model's tokenizer, or with one token a byte."""

    def __init__(self, model: str | None, limits: Limits | None = None) -> None:
        """Loads the tokenizer: at once for bytes, half a second for a folder, much longer for a hub's name.

        Raises:
            OSError, ValueError: the model has no tokenizer that can be loaded.
        """
        self._limits = limits or Limits()
        self._tokenizer = LLTokenizer("byte") if model is None else _load_tokenizer(model)
        self._compiler = Compiler(self._tokenizer, self._limits)

    def compile(self, text: str) -> CompiledConstraint:
        """What ``Compiler.compile`` makes of a text; too large where that takes too much.

        Raises:
            JobError: the compiler failed.
        """

        def job() -> dict[str, Any]:
            compiled = self._compiler.compile(text)
            return {"report": compiled.report.model_dump(mode="json"), "grammar": compiled.grammar}

        try:
            content = limited(job, seconds=self._limits.compile_seconds, mib=self._limits.compile_mib)
        except LimitError as why:
            refusal = refuse(ErrorCode.CONSTRAINT_TOO_LARGE, f"the constraint is too large: compiling it {why}")
            return CompiledConstraint(ConstraintReport(accepted=False, errors=refusal.diagnostics), None)
        return CompiledConstraint(ConstraintReport.model_validate(content["report"]), content["grammar"])

    def replay(self, grammar: str, text: str) -> Replay:
        """How far a fresh matcher of a compiled grammar follows a text.

        Raises:
            LimitError: it takes more than a minute, or too much memory.
            JobError: the matcher failed.
        """
        content = limited(lambda: self._replay(grammar, text), seconds=REPLAY_SECONDS, mib=4 * self._limits.compile_mib)
        return Replay(**content)

    def fault_of(self, constraint: str, output: str, *, exact: bool) -> str | None:
        """What the validator finds wrong with an output of an accepted constraint."""
        return fault_of(constraint, output, exact=exact, matches=self._matches)

    def has_validator(self, constraint: str) -> bool:
        """Whether the validator judges outputs of an accepted constraint."""
        return has_validator(constraint)

    def _matches(self, member: Constraint, output: str) -> bool:
        compiled = self.compile(member.to_json())
        return compiled.grammar is not None and self.replay(compiled.grammar, output).satisfied

    def _replay(self, grammar: str, text: str) -> dict[str, Any]:
        program = new_program(self._tokenizer, grammar)
        offset = 0
        for token in self._tokenizer.greedy_tokenize(text):
            if not program.consume_tokens([token]):
                return {"satisfied": False, "offset": offset}
            offset += len(self._tokenizer.decode_bytes([token]))
        return {"satisfied": program.is_accepting()}


def _load_tokenizer(model: str) -> LLTokenizer:
    folder = Path(model)
    if not (folder / "tokenizer.json").is_file():
        return model_tokenizer(model)
    # Read without transformers, whose import takes seconds.
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer |= {"padding": None, "truncation": None}
    ids = {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}
    ends = []
    for name in ("tokenizer_config.json", "generation_config.json", "config.json"):
        if (folder / name).is_file():
            config = json.loads((folder / name).read_text(encoding="utf-8"))
            named = config.get("eos_token")
            named = named.get("content") if isinstance(named, dict) else named
            numbers = config.get("eos_token_id")
            ends += [ids[named]] if named in ids else []
            ends += [] if numbers is None else [numbers] if isinstance(numbers, int) else numbers
    return TokenizerSource(json.dumps(tokenizer), tuple(dict.fromkeys(ends))).load()


def limited(job: Callable[[], Any], *, seconds: float, mib: int) -> Any:
    """A job's result, which JSON must hold, from a forked process with limits of time and memory.

    Raises:
        LimitError: it passed them, or crashed; the text goes on after "it".
        JobError: the job raised an exception.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _work(job, write_end, seconds, mib)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answers:
        answer = answers.read()
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    if ended == 0:
        content = json.loads(answer)
        if "fault" in content:
            raise JobError(content["fault"])
        return content["result"]
    if ended == -signal.SIGALRM:
        raise LimitError(f"took more than {seconds:g} s")
    if ended in (OUT_OF_MEMORY, -signal.SIGABRT):
        raise LimitError(f"took more than {mib} MiB")
    raise LimitError(f"ended its process with status {ended}")


def _work(job: Callable[[], Any], answers: int, seconds: float, mib: int) -> None:
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        # What native code says as it dies is told by the status.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + (mib << 20), most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with os.fdopen(answers, "wb") as file:
            file.write(json.dumps(_outcome(job)).encode())
        status = 0
    except MemoryError:
        status = OUT_OF_MEMORY
    finally:
        os._exit(status)


def _outcome(job: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"result": job()}
    except MemoryError:
        raise
    except Exception as fault:
        return {"fault": f"{type(fault).__name__}: {fault}"[:1000]}

