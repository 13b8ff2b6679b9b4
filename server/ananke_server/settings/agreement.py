"""Agreement: what several settings must hold together, each of them fit by itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING

from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from ananke_server.settings import Settings

_PORTS = ("http_port", "grpc_port", "metrics_port")


def require_agreement(settings: Settings) -> None:
    """Raises:
    PydanticCustomError: some contradict each other; its context has their names, as ``settings``.
    """
    for names, message in _contradictions(settings):
        raise PydanticCustomError("contradiction", message, {"settings": names})


def _contradictions(settings: Settings) -> Iterator[tuple[list[str], str]]:
    for names in combinations(_PORTS, 2):
        if len({getattr(settings, name) for name in names}) == 1:
            yield list(names), "these are the same port: give each its own"
    concurrency = settings.concurrency or 0
    if concurrency > settings.max_num_seqs:
        yield ["concurrency", "max_num_seqs"], "more requests cannot be in the engine than share a step: lower the one or raise the other"
    if concurrency > settings.max_pending:
        yield ["concurrency", "max_pending"], "more requests cannot be in the engine than are admitted: lower the one or raise the other"
    if settings.idle_timeout is not None and settings.sleep_level == 2 and settings.load_format == "dummy":
        yield ["sleep_level", "load_format"], "level 2 reads the weights again, and there are none to read: take level 1"
    if settings.log_content and settings.log_level not in ("DEBUG", "INFO"):
        yield ["log_content", "log_level"], "contents are logged at INFO, so none would be: set log_level to INFO, or log_content to false"
    if settings.provenance_log_content and settings.provenance_log is None:
        yield ["provenance_log_content", "provenance_log"], "there is no log to write contents to: set provenance_log too"
