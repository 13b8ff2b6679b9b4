"""Clients of the benchmark through Triton: processes of their own, whose streams begin at one moment and stamp every message.

A message is stamped when it arrives and decoded once all streams have ended, so that one process keeps up with some ten
thousand messages a second.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import grpc
import numpy as np
from bench_support import TokenTimes, outcome_of
from tritonclient.grpc import service_pb2

from ananke_client.errors import AnankeError
from ananke_client.grpc_codec import CHANNEL_OPTIONS, decode_stream

STREAM_INFER: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
LEAD: Final = 0.3
"""Seconds between the order to begin and the beginning."""


@dataclass(frozen=True, slots=True)
class Order:
    """A serialised request, and how many seconds after the others' beginning it is to be sent."""

    message: bytes
    after: float = 0.0


@dataclass(slots=True)
class Stream(TokenTimes):
    """One request's tokens, on a clock that all processes share."""

    error: str | None = None
    text: str = ""
    """Where it was kept."""

    def messages(self) -> list[float]:
        """The time before each message after the first, as a tool sees it that counts messages."""
        return list(np.diff([moment for moment, _ in self.stamps]))


class Clients:
    """Client processes that take orders round after round."""

    def __init__(self, url: str, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(url, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def run(self, orders: Sequence[Order], timeout: float) -> list[Stream]:
        """Send all, and wait for their ends; a stream that failed or took longer says so in its ``error``.

        Raises:
            EOFError: a client process has died.
        """
        begin = time.perf_counter() + LEAD
        shares = [list(range(number, len(orders), len(self._pipes))) for number in range(len(self._pipes))]
        for pipe, share in zip(self._pipes, shares, strict=True):
            pipe.send(([orders[index] for index in share], begin, timeout))
        streams: dict[int, Stream] = {}
        for pipe, share in zip(self._pipes, shares, strict=True):
            streams |= zip(share, pipe.recv(), strict=True)
        return [streams[index] for index in range(len(orders))]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(5)
            process.kill()


@contextmanager
def clients(url: str, processes: int) -> Iterator[Clients]:
    """Client processes of a server, ended at the block's end."""
    running = Clients(url, processes)
    try:
        yield running
    finally:
        running.close()


def _serve(url: str, pipe: Connection) -> None:
    """A client process: all its streams share one channel."""
    with grpc.insecure_channel(url, options=CHANNEL_OPTIONS) as channel:
        grpc.channel_ready_future(channel).result(30)
        call = channel.stream_stream(STREAM_INFER, request_serializer=None, response_deserializer=None)
        pipe.send("ready")
        while True:
            try:
                orders, begin, timeout = pipe.recv()
            except EOFError:
                return
            pipe.send(_run(call, orders, begin, timeout))


def _run(call: Any, orders: Sequence[Order], begin: float, timeout: float) -> list[Stream]:
    streams = [Stream(0.0) for _ in orders]
    raw: list[list[tuple[float, bytes]]] = [[] for _ in orders]

    def work(index: int) -> None:
        stream, arrived = streams[index], raw[index]
        time.sleep(max(0.0, begin + orders[index].after - time.perf_counter()))
        stream.begun = time.perf_counter()
        try:
            for message in call(iter((orders[index].message,)), timeout=timeout):
                arrived.append((time.perf_counter(), message))
        except grpc.RpcError as fault:
            stream.error = f"{fault.code().name}: {fault.details()}"[:300]

    gc.disable()
    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(orders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.enable()
    for stream, arrived in zip(streams, raw, strict=True):
        _decode(stream, arrived)
    return streams


def _decode(stream: Stream, arrived: Sequence[tuple[float, bytes]]) -> None:
    texts = []
    for moment, message in arrived:
        try:
            outputs = decode_stream(service_pb2.ModelStreamInferResponse.FromString(message))
        except AnankeError as error:
            stream.error = str(error)[:300]
            continue
        if count := int(outputs.get("num_output_tokens", 0)):
            stream.stamps.append((moment, count))
        texts.append(str(outputs.get("text_output", "")))
        try:
            if metrics := outputs.get("metrics"):
                stream.outcome = outcome_of(json.loads(str(metrics)))
        except (ValueError, TypeError) as fault:
            stream.error = f"metrics: {fault}"[:300]
    stream.text = "".join(texts)
