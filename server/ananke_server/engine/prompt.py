"""Prompts: text, or chat messages through the model's template, into tokens."""

from __future__ import annotations

import json
from typing import Any, Final

from ananke_client.errors import InvalidRequestError
from ananke_server.fairness.threads import FairThreads

ChatMessage = dict[str, Any]

LONG_PROMPT: Final = 1 << 16
"""Characters; so many take some 100 ms."""
BRIEF_PROMPT: Final = 1 << 12
"""Characters; so many take some 6 ms."""
BRIEF_PLACES: Final = 16
"""Brief prompts given to their thread at a time. With a turn of a busy event loop between any two of them, 128 took 0.7 s."""


class PromptEncoder:
    """Makes tokens of prompts on two threads of its own, one of them for long prompts, which no other waits for.

    Never on more: vLLM's tokenizer has two copies of itself, and makes another one for each further call at the same time. Where the
    vocabulary is large that takes most of a second of Python's lock: 128 first requests at once stood still for 40 s.

    Args:
        tokenizer: vLLM's, of Hugging Face's interface.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._medium, self._long = (FairThreads(1, name) for name in ("ananke-prompt", "ananke-long-prompt"))
        self._brief = self._medium.beside(places=BRIEF_PLACES)

    async def tokens(self, prompt: str, client: str) -> list[int]:
        """As ``prompt_tokens``. Clients have fair shares of each thread, for brief, medium and long prompts apart."""
        size = len(prompt)
        thread = self._brief if size <= BRIEF_PROMPT else self._medium if size <= LONG_PROMPT else self._long
        return await thread.run(client, prompt_tokens, self._tokenizer, prompt)

    def close(self) -> None:
        """End the threads, once they are done with what they have begun; what waits for them is dropped."""
        for thread in (self._medium, self._long):
            thread.close()


def require_size(prompt: str, most: int) -> None:
    """Raises:
    InvalidRequestError: the prompt has more than so many UTF-8 bytes.
    """
    # A text has at least as many bytes as characters.
    if len(prompt) > most or len(prompt.encode("utf-8", errors="replace")) > most:
        raise InvalidRequestError(f"text_input is larger than the limit of {most} bytes: shorten it (max_prompt_bytes of the server)")


def prompt_tokens(tokenizer: Any, prompt: str) -> list[int]:
    """The tokens of a prompt.

    Args:
        tokenizer: a Hugging Face tokenizer.
        prompt: text, or a JSON list of chat messages.

    Raises:
        InvalidRequestError: a message is malformed, or the model has no template, or its template refuses the messages.
    """
    if not prompt:
        raise InvalidRequestError("text_input is empty")
    messages = chat_messages(prompt)
    if messages is None:
        return list(tokenizer.encode(prompt))
    if not getattr(tokenizer, "chat_template", None):
        raise InvalidRequestError("text_input: the model has no chat template; send the prompt as text")
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as fault:  # a template raises what it likes
        raise InvalidRequestError(f"text_input: the model's chat template refuses the messages: {fault}") from None
    return list(tokenizer.encode(text, add_special_tokens=False))


def chat_messages(prompt: str) -> list[ChatMessage] | None:
    """The messages of a prompt that is a JSON list of objects with a ``role``; None for a text prompt.

    Raises:
        InvalidRequestError: it is such a list, but not of messages.
    """
    if not prompt.lstrip().startswith("["):
        return None
    try:
        messages = json.loads(prompt)
    except (ValueError, RecursionError):
        return None
    if not (isinstance(messages, list) and messages and all(isinstance(message, dict) and "role" in message for message in messages)):
        return None
    for index, message in enumerate(messages):
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise InvalidRequestError(f"text_input: message {index} needs a text {key!r}")
    return messages
