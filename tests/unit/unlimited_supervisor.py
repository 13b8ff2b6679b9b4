"""A sandbox's supervisor with a compiler that has no limits: llguidance gets everything as it is, and it misbehaves on demand."""

from __future__ import annotations

import ctypes
import json
import os
import time
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from ananke_client.report import ConstraintReport
from ananke_server.constraints.compiled import CompiledConstraint
from ananke_server.constraints.sandbox import frames, supervisor, worker


class UnlimitedCompiler:
    """Takes ``{"json_schema": …}``, ``{"lark": …}`` and ``{"do": …}``, which names one of its methods."""

    def __init__(self, *_: Any) -> None:
        self._tokenizer = LLTokenizer("byte")

    def compile(self, text: str) -> CompiledConstraint:
        request: dict[str, Any] = json.loads(text)
        if "do" in request:
            getattr(self, request["do"])(request)
            return CompiledConstraint(ConstraintReport(accepted=True), str(os.getpid()))
        if "lark" in request:
            grammar = LLMatcher.grammar_from_lark(request["lark"])
        else:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(request.get("json_schema", True)))
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        matcher.compute_bitmask()
        return CompiledConstraint(ConstraintReport(accepted=not matcher.is_error()), grammar)

    def nothing(self, request: Any) -> None:
        pass

    def sleep(self, request: Any) -> None:
        time.sleep(request["seconds"])

    def spin(self, request: Any) -> None:
        end = time.monotonic() + request["seconds"]
        while time.monotonic() < end:
            pass

    def hoard(self, request: Any) -> None:
        hoarded = [b"x" * (1 << 20) for _ in range(request["mib"])]
        assert hoarded

    def leak(self, request: Any) -> None:
        self._leaked = b"x" * (request["mib"] << 20)

    def abort(self, request: Any) -> None:
        os.abort()

    def fail(self, request: Any) -> None:
        raise ZeroDivisionError("on demand")

    def fail_once(self, request: Any) -> None:
        if _is_first(request):
            self.fail(request)

    def nonsense_once(self, request: Any) -> None:
        if _is_first(request):
            self.talk_nonsense(request)

    def shout(self, request: Any) -> None:
        os.write(2, b"." * (1 << 20))

    def crash(self, request: Any) -> None:
        ctypes.string_at(0)

    def talk_nonsense(self, request: Any) -> None:
        os.write(3, frames.pack(worker.FRESH + b"no JSON"))

    def promise_much(self, request: Any) -> None:
        os.write(3, b"\xff\xff\xff\xff")
        time.sleep(60)

    def close_channel(self, request: Any) -> None:
        os.close(3)
        time.sleep(60)


def _is_first(request: Any) -> bool:
    flag = Path(request["flag"])
    is_first = not flag.exists()
    flag.touch()
    return is_first


if __name__ == "__main__":
    supervisor.load_source = lambda options: type("Source", (), {"load": staticmethod(lambda: None)})()  # type: ignore[assignment]
    supervisor.Compiler = UnlimitedCompiler  # type: ignore[assignment,misc]
    supervisor.main()
