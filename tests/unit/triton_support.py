"""A server in this process that speaks as Triton does over both transports, and does what the prompt says.

``words N``: N words, one a response when streaming. ``hang``: one word, then nothing. ``silent``: nothing at all. ``fail CODE K``:
an error of that code for the first K tries, then as ``words 3``. ``late CODE``: one word, then the error. ``linger``: all of
``words 3``, but no end of the call.
"""

from __future__ import annotations

import json
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

REPORT = json.dumps({"accepted": True, "kind": "json_schema", "guarantee": "exact", "constraint_satisfied": True})


class WireError(Exception):
    pass


class Script:
    """What both servers do, and what they saw: tries of each prompt, deadlines, leases, attempt ids, commands, headers, keys in bodies."""

    def __init__(self, pace: float = 0.0) -> None:
        self.pace = pace
        self.command_pace = 0.0
        self.tries: Counter[str] = Counter()
        self.deadlines: list[int] = []
        self.leases: list[int] = []
        self.attempts: list[str] = []
        self.commands: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.keys: list[str] = []
        self.peers: set[str] = set()
        self.released = threading.Event()
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def words(self, prompt: str) -> list[str]:
        return [f"{prompt}/{index} " for index in range(int(prompt.split()[1]) if prompt.startswith("words") else 3)]

    def command(self, parameters: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a command, None to what is none."""
        for verb in ("cancel", "renew"):
            if verb in parameters:
                time.sleep(self.command_pace)
                names = parameters[verb].split("\n")
                self.commands += [(verb, name) for name in names]
                return {"running": any(name in self.attempts for name in names)}
        return None

    def respond(self, prompt: str, stream: bool) -> Iterator[dict[str, Any]]:
        with self._lock:
            self.tries[prompt] += 1
            tries = self.tries[prompt]
            self.running += 1
            self.most = max(self.most, self.running)
        with ExitStack() as counted:
            counted.callback(self._leave)
            for outputs in self._respond(prompt, stream, tries):
                if "finish_reason" in outputs:
                    counted.close()  # before its client has the end, and may ask for more
                yield outputs

    def _leave(self) -> None:
        with self._lock:
            self.running -= 1

    def _respond(self, prompt: str, stream: bool, tries: int) -> Iterator[dict[str, Any]]:
        verb, *arguments = prompt.split()
        if verb == "fail" and tries <= int(arguments[1]):
            raise WireError(f"in ensemble 'generate', [{arguments[0]}] as told")
        if verb == "silent":
            self.released.wait(30)
        if verb in ("hang", "late"):
            yield {"text_output": "one "}
            if verb == "late":
                raise WireError(f"[{arguments[0]}] as told")
            self.released.wait(30)
        words = self.words(prompt)
        if stream:
            for word in words[:-1]:
                time.sleep(self.pace)
                yield {"text_output": word, "num_output_tokens": 1}
            words = words[-1:]
        time.sleep(self.pace)
        yield {
            "text_output": prompt.removeprefix("say ") if verb == "say" else "".join(words),
            "finish_reason": "stop",
            "num_input_tokens": 2,
            "num_output_tokens": len(words),
            "constraint_report": REPORT,
        }
        if verb == "linger":
            self.released.wait(30)


class _Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[Any]:
        script = self._script
        script.headers.append(dict(context.invocation_metadata()))
        script.peers.add(context.peer())
        for request in requests:
            if (answer := script.command({name: value.string_param for name, value in request.parameters.items()})) is not None:
                yield service_pb2.ModelStreamInferResponse(infer_response=_message(answer))
                continue
            script.attempts.append(request.parameters["attempt_id"].string_param)
            script.deadlines.append(request.parameters["deadline_ms"].int64_param)
            script.leases.append(request.parameters["lease_ms"].int64_param)
            raw = dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True))
            try:
                for outputs in script.respond(raw["text_input"][4:].decode(), raw["stream"] == b"\x01"):
                    yield service_pb2.ModelStreamInferResponse(infer_response=_message(outputs))
            except WireError as error:
                yield service_pb2.ModelStreamInferResponse(error_message=str(error))

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self._script.headers.append(dict(context.invocation_metadata()))
        try:
            _validate(self._script, request.raw_input_contents[0][4:].decode())
        except WireError as error:
            context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return _message({"constraint_report": REPORT})


def _validate(script: Script, constraint: str) -> None:
    script.tries[constraint] += 1
    if script.tries[constraint] <= json.loads(constraint).get("fail", 0):
        raise WireError("[overloaded] as told")


def _message(outputs: dict[str, Any]) -> Any:
    response = service_pb2.ModelInferResponse()
    for name, value in outputs.items():
        if isinstance(value, bool):
            datatype, raw = "BOOL", struct.pack("<?", value)
        elif isinstance(value, str):
            datatype, raw = "BYTES", struct.pack("<I", len(value.encode())) + value.encode()
        else:
            datatype, raw = "UINT32", struct.pack("<I", value)
        response.outputs.add(name=name, datatype=datatype, shape=[1])
        response.raw_output_contents.append(raw)
    return response


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        script = self.script
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        script.headers.append({name.lower(): value for name, value in self.headers.items()})
        script.peers.add(str(self.client_address))
        if self.path.endswith("/infer"):
            try:
                _validate(script, body["inputs"][0]["data"][0])
            except WireError as error:
                self._whole(400, {"error": str(error)})
            else:
                self._whole(200, {"outputs": [{"name": "constraint_report", "data": [REPORT]}]})
            return
        if (answer := script.command(body)) is not None:
            self._whole(200, answer)
            return
        script.keys += [body["x-api-key"]] if "x-api-key" in body else []
        script.attempts.append(body["attempt_id"])
        script.deadlines.append(body["deadline_ms"])
        script.leases.append(body["lease_ms"])
        responses = script.respond(body["text_input"], body["stream"])
        if body["stream"]:
            self._events(responses)
            return
        try:
            self._whole(200, list(responses)[-1])
        except WireError as error:
            self._whole(400, {"error": str(error)})

    def _whole(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _events(self, responses: Iterator[dict[str, Any]]) -> None:
        begun = False
        try:
            for outputs in responses:
                begun = self._event(outputs, 200, begun)
        except WireError as error:
            begun = self._event({"error": str(error)}, 400, begun)
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, content: dict[str, Any], status: int, begun: bool) -> bool:
        if not begun:
            self.send_response(status)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
        data = f"data: {json.dumps(content)}\n\n".encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()
        return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # connections break: that is what the tests are about


@contextmanager
def serving(script: Script, transport: str, *, certificates: tuple[str, str, str] | None = None) -> Iterator[int]:
    """The port of a server; with certificates (authority, certificate, key: PEM files) it asks its clients for theirs."""
    run = _serving_grpc if transport == "grpc" else _serving_http
    with run(script, certificates) as port:
        try:
            yield port
        finally:
            script.released.set()


@contextmanager
def _serving_grpc(script: Script, certificates: tuple[str, str, str] | None) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(64))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Service(script), server)
    if certificates is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        authority, certificate, key = (Path(file).read_bytes() for file in certificates)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)], authority, True))
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@contextmanager
def _serving_http(script: Script, certificates: tuple[str, str, str] | None) -> Iterator[int]:
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"script": script}))
    if certificates is not None:
        authority, certificate, key = certificates
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
