"""Logs of our models' processes: lines for people or for machines."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pythonjsonlogger.json import JsonFormatter

from ananke_server.engine.request import Delta, Emit, GenerateRequest
from ananke_server.settings import Settings

logger = logging.getLogger(__name__)

LOGGER = "ananke_server"
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_FIELDS = ["levelname", "name", "message", "process"]


def configure_logging(settings: Settings) -> None:
    """Send what this package logs to standard error, which Triton passes on, as the settings say."""
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter(settings))
    ours = logging.getLogger(LOGGER)
    ours.handlers = [handler]
    ours.setLevel(settings.log_level)
    ours.propagate = False


class ContentLog:
    """Prompts, constraints and outputs in the log, where the operator asked for them."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled

    @contextmanager
    def of(self, request: GenerateRequest, emit: Emit) -> Iterator[Emit]:
        """Takes a request's text on its way to ``emit``; logs it with the request at the end, however that comes."""
        if not self._enabled:
            yield emit
            return
        pieces: list[str] = []

        def passed(delta: Delta) -> None:
            pieces.append(delta.text)
            emit(delta)

        try:
            yield passed
        finally:
            content = {"prompt": request.prompt, "constraint": request.constraint, "output": "".join(pieces)}
            logger.info("request %s: %s", request.request_id, json.dumps(content, ensure_ascii=False))


def _formatter(settings: Settings) -> logging.Formatter:
    if settings.log_format == "text":
        formatter = logging.Formatter(_TEXT, "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        return formatter
    return JsonFormatter(
        _FIELDS,
        rename_fields={"levelname": "level", "name": "logger", "process": "pid"},
        static_fields={"service": settings.name},
        timestamp=True,
        json_ensure_ascii=False,
    )
