"""Clients that connect and go silent, in a process of their own: run with two ports and a number, it prints ``silent`` and waits."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ananke_server.launch import TritonServer

KINDS = 6
TEXTS = {
    "text_input": "Numbers: ",
    "constraint": json.dumps({"type": "regex", "pattern": "[0-9]{40}"}),
    "sampling_parameters": json.dumps({"max_tokens": 60, "seed": 7}),
}
_CHANNEL = [("grpc.use_local_subchannel_pool", 1)]  # else all channels of a process share one connection


@contextmanager
def silent_clients(server: TritonServer, count: int) -> Iterator[None]:
    """So many of them, as many of each kind, from when all are connected; at the end they are killed."""
    command = [sys.executable, __file__, str(server.http_port), str(server.grpc_port), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "silent\n"
            yield
        finally:
            process.kill()


def main() -> None:
    http, grpc_port, count = map(int, sys.argv[1:])
    held: list[Any] = [connect(number % KINDS, http, grpc_port) for number in range(count)]
    print("silent", flush=True)
    signal.pause()
    del held


def connect(kind: int, http: int, grpc_port: int) -> Any:
    """A connection that says nothing, the half of a head, the half of a body, nothing over gRPC, or a stream that nobody reads."""
    body = json.dumps(TEXTS | {"stream": True}).encode()
    head = f"POST /v2/models/generate/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    if kind == 5:
        return never_reading(grpc_port)
    connection = socket.create_connection(("127.0.0.1", grpc_port if kind == 3 else http), timeout=30)
    connection.sendall([b"", head[:30], head + body[:30], b"", head + body][kind])
    return connection


def never_reading(port: int) -> Any:
    """A gRPC stream with a request, whose side of the stream stays open and whose responses are not read."""
    request = service_pb2.ModelInferRequest(model_name="generate")
    for name, text in TEXTS.items():
        _add(request, name, "BYTES", len(text.encode()).to_bytes(4, "little") + text.encode())
    _add(request, "stream", "BOOL", b"\1")
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=_CHANNEL)
    grpc.channel_ready_future(channel).result(timeout=60)

    def requests() -> Iterator[Any]:
        yield request
        threading.Event().wait()

    return channel, service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests())


def _add(request: Any, name: str, datatype: str, content: bytes) -> None:
    tensor = request.inputs.add()
    tensor.name, tensor.datatype = name, datatype
    tensor.shape.append(1)
    request.raw_input_contents.append(content)


if __name__ == "__main__":
    main()
