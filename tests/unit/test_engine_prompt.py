"""What a prompt is: text, or chat messages where it is a JSON list of them; and the tokens of either."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import PATIENCE

from ananke_client.errors import InvalidRequestError
from ananke_server.engine.prompt import LONG_PROMPT, PromptEncoder, chat_messages, prompt_tokens, require_size

SYSTEM = {"role": "system", "content": "Be short."}
USER = {"role": "user", "content": "né😀\n"}


@pytest.mark.parametrize("messages", [[USER], [SYSTEM, USER], [USER | {"name": "n"}], [{"role": "", "content": ""}], [USER] * 50])
@pytest.mark.parametrize("blank", ["", "\n  "])
def test_a_list_of_messages_is_a_chat(messages: list[dict[str, Any]], blank: str) -> None:
    assert chat_messages(blank + json.dumps(messages) + blank) == messages


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "hello",
        "[",
        "[]",
        "[INST] hello [/INST]",
        "[1, 2]",
        '["a"]',
        "[{}]",
        '[{"content": "x"}]',
        "[[]]",
        '[{"role": "user"',
        "[null]",
        '[{"role": "user", "content": "x"}, 3]',
        '[{"role": "user", "content": "x"}] and more',
        json.dumps(USER),
        "null",
        "\ud800[",
        "[NaN]",
        "[" * 100_000,
    ],
    ids=lambda prompt: ascii(prompt)[:40],
)
def test_anything_else_is_text(prompt: str) -> None:
    assert chat_messages(prompt) is None


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([{"role": "user"}], "message 0 needs a text 'content'"),
        ([{"role": 3, "content": "x"}], "message 0 needs a text 'role'"),
        ([{"role": None, "content": "x"}], "message 0 needs a text 'role'"),
        ([USER, {"role": "user", "content": None}], "message 1 needs a text 'content'"),
        ([USER, {"role": "user", "content": [{"type": "text", "text": "x"}]}], "message 1 needs a text 'content'"),
        ([USER, USER, {"role": "user", "content": 3}], "message 2 needs a text 'content'"),
    ],
)
def test_a_faulty_message_is_refused_by_its_number(messages: list[dict[str, Any]], fault: str) -> None:
    with pytest.raises(InvalidRequestError, match=fault):
        chat_messages(json.dumps(messages))


@given(st.text() | st.text('[]{}",: role').map("[".__add__))
def test_any_prompt_is_text_or_messages_or_refused(prompt: str) -> None:
    try:
        messages = chat_messages(prompt)
    except InvalidRequestError:
        return
    assert messages is None or all(isinstance(message["content"], str) for message in messages)


class Tokenizer:
    """One token a character; a template that starts every message with its role, and knows two roles."""

    chat_template: str | None = "template"

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [0] * add_special_tokens + [ord(character) for character in text]

    def apply_chat_template(self, messages: list[dict[str, Any]], *, tokenize: bool, add_generation_prompt: bool) -> str:
        assert (tokenize, add_generation_prompt) == (False, True)
        if any(message["role"] not in ("system", "user") for message in messages):
            raise LookupError("unknown role")
        return "".join(f"{message['role']}:{message['content']};" for message in messages) + "assistant:"


def test_a_text_begins_with_the_special_tokens() -> None:
    assert prompt_tokens(Tokenizer(), "hé") == [0, ord("h"), ord("é")]


def test_a_chat_is_rendered_and_begins_as_its_template_does() -> None:
    assert prompt_tokens(Tokenizer(), json.dumps([SYSTEM, USER])) == [
        ord(character) for character in "system:Be short.;user:né😀\n;assistant:"
    ]


def test_a_model_without_a_template_takes_text_alone() -> None:
    tokenizer = Tokenizer()
    tokenizer.chat_template = None
    assert prompt_tokens(tokenizer, "[1]") == [0, *map(ord, "[1]")]
    with pytest.raises(InvalidRequestError, match="no chat template"):
        prompt_tokens(tokenizer, json.dumps([USER]))


def test_what_a_template_refuses_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequestError, match="refuses the messages: unknown role"):
        prompt_tokens(Tokenizer(), json.dumps([{"role": "pirate", "content": "arr"}]))


@pytest.mark.parametrize(("prompt", "fits"), [("x" * 10, True), ("x" * 11, False), ("é" * 5, True), ("é" * 6, False), ("\ud800" * 4, True)])
def test_a_prompt_is_bounded_in_bytes(prompt, fits):
    if fits:
        require_size(prompt, 10)
    else:
        with pytest.raises(InvalidRequestError, match="text_input is larger than the limit of 10 bytes"):
            require_size(prompt, 10)


class HeldTokenizer:
    """Counts how many calls are under way at once; a long text waits until it is let go."""

    def __init__(self) -> None:
        self.most = self._now = 0
        self.long_begun, self.let_go = threading.Event(), threading.Event()
        self._lock = threading.Lock()

    def encode(self, text: str) -> list[int]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        if len(text) > LONG_PROMPT:
            self.long_begun.set()
            assert self.let_go.wait(2 * PATIENCE)
        with self._lock:
            self._now -= 1
        return [len(text)]


def test_short_prompts_wait_for_no_long_one_and_no_more_than_two_are_encoded_at_once() -> None:
    async def run() -> None:
        tokenizer = HeldTokenizer()
        encoder = PromptEncoder(tokenizer)
        long = [asyncio.create_task(encoder.tokens("x" * (LONG_PROMPT + 1), "a")) for _ in range(3)]
        await asyncio.to_thread(tokenizer.long_begun.wait, 10)
        short = await asyncio.wait_for(asyncio.gather(*(encoder.tokens("x" * (1 + number), "b") for number in range(100))), PATIENCE)
        assert short == [[1 + number] for number in range(100)]
        assert not any(task.done() for task in long)
        tokenizer.let_go.set()
        assert await asyncio.gather(*long) == [[LONG_PROMPT + 1]] * 3
        assert tokenizer.most == 2
        encoder.close()

    asyncio.run(run())


def test_a_long_prompt_waits_for_one_of_another_clients_and_not_for_all() -> None:
    async def run() -> None:
        tokenizer = HeldTokenizer()
        encoder = PromptEncoder(tokenizer)
        ended: list[str] = []

        async def encode(client: str) -> None:
            await encoder.tokens("x" * (LONG_PROMPT + 1), client)
            ended.append(client)

        tasks = [asyncio.create_task(encode(client)) for client in "aaaaab"]
        await asyncio.to_thread(tokenizer.long_begun.wait, 10)
        tokenizer.let_go.set()
        await asyncio.gather(*tasks)
        assert ended == list("abaaaa")
        encoder.close()

    asyncio.run(run())


def test_a_prompt_that_cannot_be_encoded_says_so() -> None:
    with pytest.raises(InvalidRequestError, match="empty"):
        asyncio.run(PromptEncoder(HeldTokenizer()).tokens("", ""))
