"""Logs: their form, and that a request's content is in them only where it was asked for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from ananke_server.engine.request import Delta, GenerateRequest
from ananke_server.logs import LOGGER, ContentLog, configure_logging
from ananke_server.settings import Settings

REQUEST = GenerateRequest("request-1", "the prompt", constraint='{"type": "regex"}')


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """The package's logger, afterwards as it was."""
    ours = logging.getLogger(LOGGER)
    before = ours.handlers, ours.level, ours.propagate
    yield ours
    ours.handlers, ours.level, ours.propagate = before


def lines_of(capsys: pytest.CaptureFixture[str], **settings: str | bool) -> list[str]:
    """What a process logs that is configured so and serves one request."""
    made = Settings(model="m", **settings)  # type: ignore[arg-type]
    configure_logging(made)
    log = logging.getLogger(f"{LOGGER}.some.module")
    log.debug("fine")
    log.warning("odd: %s", 'a "word"')
    taken: list[Delta] = []
    with ContentLog(enabled=made.log_content).of(REQUEST, taken.append) as emit:
        emit(Delta("the ", 1))
        emit(Delta("output", 1))
    assert [delta.text for delta in taken] == ["the ", "output"]
    return capsys.readouterr().err.splitlines()


def test_text_has_time_level_and_module(capsys: pytest.CaptureFixture[str]) -> None:
    [line] = lines_of(capsys)
    assert line[20:] == 'WARNING ananke_server.some.module: odd: a "word"'


def test_json_is_an_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    fine, odd = map(json.loads, lines_of(capsys, log_format="json", log_level="DEBUG", name="mine"))
    assert (fine["level"], odd["level"]) == ("DEBUG", "WARNING")
    assert (odd["message"], odd["logger"], odd["service"]) == ('odd: a "word"', "ananke_server.some.module", "mine")
    assert odd["timestamp"].endswith("+00:00")


def test_the_level_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of(capsys, log_level="ERROR") == []


def test_content_is_logged_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    _, line = lines_of(capsys, log_content=True)
    content = json.loads(line.partition("request request-1: ")[2])
    assert content == {"prompt": "the prompt", "constraint": '{"type": "regex"}', "output": "the output"}
