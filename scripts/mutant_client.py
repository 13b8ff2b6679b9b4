"""A client that sends bytes that are no text, and tells what came back without trusting any of it."""

from __future__ import annotations

import json
import struct
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

import grpc
import httpx
from mutants import Mutant
from pydantic import ValidationError
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ananke_client.errors import ErrorCode, from_wire
from ananke_client.grpc_codec import CHANNEL_OPTIONS
from ananke_client.report import ConstraintReport

TIMEOUT: Final = 120.0
CODES: Final = tuple(code.value for code in ErrorCode)
BROKEN_TENSOR_EVERY: Final = 97
"""Every so many mutants, the tensor that carries one is broken too: Triton is to refuse that itself."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``outcome``: accepted, a code, ``triton`` (refused before any model of ours saw it) or ``none``. ``fault``: why it may not be."""

    outcome: str
    seconds: float
    fault: str = ""
    text: str = ""


class MutantClient:
    """Sends mutants as raw tensors. Safe to use from several threads."""

    def __init__(self, grpc_url: str, http_url: str) -> None:
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(grpc_url, options=CHANNEL_OPTIONS))
        self._http_url = f"http://{http_url}"
        self._local = threading.local()

    def validate(self, number: int, mutant: Mutant) -> Answer:
        """By gRPC or HTTP in turn. Never raises for what the server does."""
        shape, raw = _tensor(number, mutant.data)
        begin = time.perf_counter()
        try:
            report, text = (self._by_grpc if number % 2 else self._by_http)(shape, raw)
        except (grpc.RpcError, httpx.HTTPError) as error:
            return Answer("none", time.perf_counter() - begin, "no answer", f"{type(error).__name__}: {error}")
        return _judged(report, text, time.perf_counter() - begin)

    def generate(self, number: int, mutant: Mutant) -> Answer:
        """By a gRPC stream, to its end. Never raises for what the server does."""
        message = service_pb2.ModelInferRequest(model_name="generate")
        parameters = json.dumps({"max_tokens": 8, "temperature": 1.0, "seed": number}).encode()
        for name, data in (("text_input", b"A"), ("constraint", mutant.data), ("sampling_parameters", parameters)):
            message.inputs.add(name=name, datatype="BYTES", shape=[1])
            message.raw_input_contents.append(_element(data))
        begin = time.perf_counter()
        report, text = None, ""
        try:
            for response in self._stub.ModelStreamInfer(iter((message,)), timeout=TIMEOUT):
                text = response.error_message or text
                outputs = zip(response.infer_response.outputs, response.infer_response.raw_output_contents, strict=False)
                report = next((raw[4:] for output, raw in outputs if output.name == "constraint_report" and raw), report)
        except grpc.RpcError as error:
            return Answer("none", time.perf_counter() - begin, "no answer", f"{error.code()}: {error.details()}")
        return _judged(report, text, time.perf_counter() - begin)

    def _by_grpc(self, shape: list[int], raw: bytes) -> tuple[bytes | None, str]:
        message = service_pb2.ModelInferRequest(model_name="validate")
        message.inputs.add(name="constraint", datatype="BYTES", shape=shape)
        message.raw_input_contents.append(raw)
        message.outputs.add(name="constraint_report")
        try:
            response = self._stub.ModelInfer(message, timeout=TIMEOUT)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise
            return None, str(error.details())
        return bytes(response.raw_output_contents[0][4:]), ""

    def _by_http(self, shape: list[int], raw: bytes) -> tuple[bytes | None, str]:
        tensor = {"name": "constraint", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        wanted = {"name": "constraint_report", "parameters": {"binary_data": True}}
        head = json.dumps({"inputs": [tensor], "outputs": [wanted]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        response = self._http.post("/v2/models/validate/infer", content=head + raw, headers=headers)
        if response.status_code != 200:
            return None, response.text
        return response.content[int(response.headers["Inference-Header-Content-Length"]) + 4 :], ""

    @property
    def _http(self) -> httpx.Client:
        if not hasattr(self._local, "http"):
            self._local.http = httpx.Client(base_url=self._http_url, timeout=TIMEOUT, trust_env=False)
        client: httpx.Client = self._local.http
        return client


def _tensor(number: int, data: bytes) -> tuple[list[int], bytes]:
    if number % BROKEN_TENSOR_EVERY:
        return [1], _element(data)
    broken: list[tuple[list[int], bytes]] = [
        ([2], _element(data) * 2),
        ([1], data),
        ([1], b""),
        ([0], b""),
        ([1, 1], _element(data)),
        ([1], struct.pack("<I", len(data) + 9) + data),
    ]
    return broken[number // BROKEN_TENSOR_EVERY % len(broken)]


def _element(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _judged(report: bytes | None, text: str, seconds: float) -> Answer:
    """What an answer says. One that is no report has to be an error with a code, or Triton's own."""
    if report is None or text:
        error = from_wire(text)
        if error is not None:
            return Answer(error.code.value, seconds, "internal" if error.code is ErrorCode.INTERNAL else "", text)
        return Answer("triton", seconds, "" if text else "an answer without report and error", text)
    try:
        read = ConstraintReport.model_validate_json(report)
    except ValidationError as error:
        return Answer("none", seconds, f"the report cannot be read: {error}", str(report[:300]))
    shown = str(read)[:400]
    if read.accepted:
        unguarded = read.guarantee not in ("exact", "verified") or bool(read.errors)
        return Answer("accepted", seconds, "accepted without a guarantee" if unguarded else "", shown)
    return _refused(read, seconds, shown)


def _refused(report: ConstraintReport, seconds: float, shown: str) -> Answer:
    codes: list[Any] = [diagnostic.code for diagnostic in report.errors]
    unknown = [code for code in codes if code not in CODES]
    fault = ""
    if not codes or unknown:
        fault = f"codes that are not known: {unknown}" if unknown else "refused without an error"
    elif ErrorCode.INTERNAL in codes:
        fault = "internal"
    return Answer(str(codes[0]) if codes else "none", seconds, fault, shown)
