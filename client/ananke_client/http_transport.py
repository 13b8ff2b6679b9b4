"""HTTP transport: what the blocking and the asynchronous one share."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from typing import Final

import httpx

from ananke_client.commands import Verb
from ananke_client.connection import API_KEY_HEADER
from ananke_client.http_codec import (
    BodyDecoder,
    EventDecoder,
    HttpCodec,
    SoleDecoder,
    decode_generation,
    error_of_response,
    generation_body,
    model_path,
)
from ananke_client.request import GenerationRequest
from ananke_client.response import Outputs
from ananke_client.transport import GRACE, Question, Responses, T, Transport

CONNECT_TIMEOUT: Final = 10.0
"""Seconds that a connection may take to open."""

HEADERS: Final = {"accept-encoding": "identity"}
_GENERATE: Final = ("/generate", "/generate_stream")
"""Triton hands no header of these to a model, so that the API key goes with the body too."""
LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=32)


class HttpTransport(Transport):
    """Requests of Triton's generate extension, over a pool of connections."""

    codec = HttpCodec()

    async def open(self, request: GenerationRequest, model: str) -> Responses:
        path = model_path(model, "generate_stream" if request.stream else "generate")
        question = Question(path, generation_body(request), str)
        decoder = EventDecoder() if request.stream else SoleDecoder()
        return await self._start(question, request.timeout + GRACE, decoder, request.attempt_id)

    async def command(self, model: str, verb: Verb, value: str | bool, timeout: float) -> Outputs:
        return await self.ask(Question(model_path(model, "generate"), {verb: value}, decode_generation), timeout)

    async def ask(self, question: Question[T], timeout: float) -> T:
        response, text = await self._fetch(question, timeout)
        if not response.is_success:
            raise error_of_response(response, text)
        return question.read(text)

    @abstractmethod
    async def _start(self, question: Question[str], timeout: float, decoder: BodyDecoder, attempt_id: str) -> Responses:
        """Sends the request of a try; returns when the response's status has come and is good."""

    @abstractmethod
    async def _fetch(self, question: Question[T], timeout: float) -> tuple[httpx.Response, str]:
        """A response and its whole body."""


class HttpResponses(Responses):
    """The responses in one body."""

    def __init__(self, response: httpx.Response, decoder: BodyDecoder) -> None:
        self._response = response
        self._decoder = decoder
        self._texts: deque[str] = deque()
        self._ended = False

    async def receive(self) -> Outputs | None:
        while not self._texts:
            if self._ended:
                return None
            chunk = await self._chunk()
            self._ended = chunk is None
            self._texts.extend(self._decoder.end() if chunk is None else self._decoder.feed(chunk))
        return decode_generation(self._texts.popleft())

    @abstractmethod
    async def _chunk(self) -> bytes | None:
        """The next piece of the body, None at its end."""


def request_of(http: httpx.Client | httpx.AsyncClient, question: Question[T], timeout: float) -> httpx.Request:
    """The request of a question; each of its waits, but for the connection's, is bounded by ``timeout`` seconds."""
    patience = httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))
    if question.content is None:
        return http.build_request("GET", question.target, timeout=patience)
    content = question.content
    if question.target.endswith(_GENERATE) and (key := http.headers.get(API_KEY_HEADER)):
        content = {**content, API_KEY_HEADER: key}
    return http.build_request("POST", question.target, json=content, timeout=patience)
