"""The four clients by name, each with a synchronous client's methods."""

from __future__ import annotations

from typing import Any

from blocking_client import BlockingClient

from ananke_client import (
    AnankeInferenceClient,
    AnankeInferenceHTTPClient,
    AsyncAnankeInferenceClient,
    AsyncAnankeInferenceHTTPClient,
)

AnyClient = AnankeInferenceClient | AnankeInferenceHTTPClient | BlockingClient

FOUR = ("grpc", "grpc-async", "http", "http-async")


def make_client(kind: str, port: int, **settings: Any) -> AnyClient:
    """A client of a server on this machine's ``port``."""
    settings = {"url": f"127.0.0.1:{port}", **settings}
    if kind == "grpc":
        return AnankeInferenceClient(**settings)
    if kind == "http":
        return AnankeInferenceHTTPClient(**settings)
    asynchronous = AsyncAnankeInferenceClient if kind == "grpc-async" else AsyncAnankeInferenceHTTPClient
    return BlockingClient(lambda: asynchronous(**settings))
