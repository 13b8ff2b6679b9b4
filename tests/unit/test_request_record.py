"""The record of requests: what is logged of each under its id, and which errors the status tells."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import backend_support  # noqa: F401
import pytest

from ananke_client.errors import AnankeError, CancelledError, DeadEndError, EngineUnavailableError, InvalidRequestError, OverloadedError
from ananke_server.engine.request import GenerateRequest
from ananke_server.engine.timeline import Timeline
from ananke_server.triton.request_record import RequestRecord

REQUEST = GenerateRequest("id-1-abc", "a secret prompt", constraint='{"secret": 1}', caller_id="id-1")


class Counted:
    """Stands for the metrics."""

    def __init__(self) -> None:
        self.ends: list[Any] = []

    def count_result(self, *end: Any) -> None:
        self.ends.append(end)

    def count_error(self, *end: Any) -> None:
        self.ends.append(end)


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def record(counted: Counted) -> RequestRecord:
    return RequestRecord(counted, None)  # type: ignore[arg-type]


def test_a_finished_request_is_one_line_under_its_id(record: RequestRecord, counted: Counted, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    result: Any = SimpleNamespace(finish_reason="stop")
    record.finished(REQUEST, result, 7, Timeline("regex", input_tokens=3))
    assert len(counted.ends) == 1
    [line] = caplog.records
    assert line.getMessage().startswith("request id-1-abc: outcome=ok kind=regex input_tokens=3 output_tokens=7 admitted_ms=")
    assert (line.request_id, line.outcome, line.output_tokens) == ("id-1-abc", "ok", 7)  # type: ignore[attr-defined]
    record.finished(replace(REQUEST, key_name="alice"), result, 7, Timeline("regex"))
    assert " key=alice " in caplog.records[-1].getMessage(), "whose API key it was"
    assert "secret" not in str(vars(line))
    assert record.last_error is None


def test_what_is_not_of_the_closed_set_is_logged_with_its_trace(record: RequestRecord, caplog: pytest.LogCaptureFixture) -> None:
    record.failed(REQUEST, ZeroDivisionError("x"), 0, Timeline())
    [line] = caplog.records
    assert (line.levelname, line.request_id) == ("ERROR", "id-1-abc")  # type: ignore[attr-defined]
    assert line.exc_info is not None
    assert record.last_error is not None
    assert record.last_error["code"] == "internal"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (EngineUnavailableError("x"), True),
        (OverloadedError("x"), True),
        (InvalidRequestError("x"), False),
        (DeadEndError("x"), False),
        (CancelledError("x"), False),
    ],
)
def test_only_errors_of_the_server_are_its_last(record: RequestRecord, error: AnankeError, told: bool) -> None:
    record.failed(REQUEST, error, 0, Timeline())
    assert (record.last_error is not None) == told
    if record.last_error is not None:
        assert record.last_error.keys() == {"code", "at"}
        assert record.last_error["code"] == error.code
