"""A model folder with a file that is missing or broken: one line that says which, and an end within seconds, not after a time limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from real_server import require_model

from ananke_server.launch import DEFAULT_MODEL, PROJECT
from ananke_server.ports import free_ports

WITHIN_SECONDS = 60.0  # it takes 1 to 3: the bound is for a machine that has much else to do
WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the small model whose files may be replaced: each is a link to the real one."""
    require_model()
    folder = tmp_path / "model"
    folder.mkdir()
    for file in DEFAULT_MODEL.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def serve(model: Path, run: Path) -> subprocess.CompletedProcess[str]:
    """``scripts/serve.py foreground`` with this model, which must end by itself."""
    ports = dict(zip(("ANANKE_HTTP_PORT", "ANANKE_GRPC_PORT", "ANANKE_METRICS_PORT"), map(str, free_ports(3)), strict=True))
    environment = os.environ | ports | {"ANANKE_MODEL": str(model), "ANANKE_RUN_DIR": str(run)}
    command = [sys.executable, PROJECT / "scripts" / "serve.py", "foreground"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2 * WITHIN_SECONDS)


def remove(model: Path, name: str) -> None:
    (model / name).unlink()


def replace(model: Path, name: str, content: bytes) -> None:
    remove(model, name)
    (model / name).write_bytes(content)


def cut_weights(model: Path) -> None:
    """Header and all but the last byte of the data: what a broken download leaves."""
    whole = (DEFAULT_MODEL / WEIGHTS).stat().st_size
    remove(model, WEIGHTS)
    with (DEFAULT_MODEL / WEIGHTS).open("rb") as source, (model / WEIGHTS).open("wb") as target:
        target.write(source.read(1 << 20))
        target.truncate(whole - 1)


def lose_a_shard(model: Path) -> None:
    index = {"weight_map": {"a": WEIGHTS, "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda model: remove(model, WEIGHTS), "the model folder {} has no weights (*.safetensors, *.bin, *.pt, *.pth, *.gguf): copy"),
        (cut_weights, "{}/model.safetensors has 269060551 bytes, and its header speaks of 269060552: copy the model again"),
        (lambda model: replace(model, WEIGHTS, b"not weights"), "{}/model.safetensors cannot be read ("),
        (lose_a_shard, "{}/model-00002-of-00002.safetensors is missing, which model.safetensors.index.json names: copy the model again"),
        (lambda model: remove(model, "config.json"), "the model folder {} has no config.json: name one in Hugging Face's layout"),
        (lambda model: replace(model, "config.json", b'{"model_type": '), "{}/config.json cannot be read (Expecting value"),
        (lambda model: replace(model, "config.json", b"[]"), "{}/config.json is no JSON object: copy the model again"),
        (lambda model: remove(model, TOKENIZER), "the model folder {} has no tokenizer (tokenizer.json): copy the model again"),
        (lambda model: replace(model, TOKENIZER, b'{"version": "1.0"'), "{}/tokenizer.json cannot be read (Expecting"),
        (lambda model: replace(model, TOKENIZER, b'{"version": "1.0"}'), "{}/tokenizer.json is no tokenizer ("),
        (lambda model: replace(model, "tokenizer_config.json", b"\0\0"), "{}/tokenizer_config.json cannot be read ("),
    ],
    ids=[
        "no weights",
        "weights cut short",
        "weights are none",
        "a shard missing",
        "no config",
        "config cut short",
        "config is a list",
        "no tokenizer",
        "tokenizer cut short",
        "tokenizer of another form",
        "tokenizer config overwritten",
    ],
)
def test_a_broken_model_folder_ends_the_start_with_one_line(
    model: Path, tmp_path: Path, damage: Callable[[Path], None], line: str
) -> None:
    damage(model)
    begun = time.monotonic()
    ended = serve(model, tmp_path / "run")
    assert time.monotonic() - begun < WITHIN_SECONDS
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"serve: {line.format(model)}"), ended.stderr
    assert ended.stderr.count("\n") == 1
