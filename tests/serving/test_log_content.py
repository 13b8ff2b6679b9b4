"""The server's log has nothing of what users send and get, unless asked."""

from __future__ import annotations

import secrets
import time

import pytest
from real_server import Client

from ananke_client import AnankeError, ConstraintSpec, GenerationConfig
from ananke_server.launch import TritonServer


def test_neither_prompt_nor_constraint_nor_output_is_in_the_log(server: TritonServer, client: Client) -> None:
    prompt, output, refused = (f"{name}{secrets.token_hex(8)}" for name in ("prompt", "output", "refused"))
    result = client.generate(prompt, ConstraintSpec.choice(output), GenerationConfig(max_tokens=60))
    assert result.text == output
    for faulty in (ConstraintSpec.regex(f"(?=a){refused}"), {"type": refused}):
        with pytest.raises(AnankeError):
            client.generate(prompt, faulty)
    with pytest.raises(AnankeError):
        client.generate(prompt, ConstraintSpec.choice(output), GenerationConfig(max_tokens=1, extra={"n": 2}))
    time.sleep(0.5)  # for what is logged late
    assert server.log_file is not None
    log = server.log_file.read_text(errors="replace")
    assert "vLLM's v1 model runner" in log, "our own lines are in it"
    assert not [text for text in (prompt, output, refused) if text in log]
