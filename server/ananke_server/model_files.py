"""A model folder's files before a start: whether those that are needed are there, and whole as far as that is quickly seen."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ananke_server.launch import LaunchError
from ananke_server.memory import safetensors_header

if TYPE_CHECKING:
    from ananke_server.settings import Settings

CURE = "copy the model again"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "*.tiktoken", "vocab.json", "vocab.txt", "tekken.json", "spiece.model")
_JSON = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "*.index.json")


def require_whole(folder: Path, settings: Settings) -> None:
    """Look at a folder's weights and tokenizer. The weights' headers are read and not the weights, so large models take no longer.

    Raises:
        LaunchError: one is missing, cut short or cannot be read; the line names the file.
    """
    for path in chain.from_iterable(folder.glob(pattern) for pattern in _JSON):
        _read_object(path)
    if settings.load_format != "dummy":
        _require_weights(folder)
    if "tokenizer" not in settings.engine_args:
        _require_tokenizer(folder)


def _require_weights(folder: Path) -> None:
    if not any(chain.from_iterable(folder.glob(pattern) for pattern in _WEIGHTS)):
        raise LaunchError(f"the model folder {folder} has no weights ({', '.join(_WEIGHTS)}): {CURE}, or name another with ANANKE_MODEL")
    for index in folder.glob("*.index.json"):
        shards = _read_object(index).get("weight_map")
        for name in sorted(set(shards.values())) if isinstance(shards, dict) else ():
            if not (folder / name).is_file():
                raise LaunchError(f"{folder / name} is missing, which {index.name} names: {CURE}")
    for path in folder.glob("*.safetensors"):
        _require_length(path)


def _require_length(path: Path) -> None:
    try:
        header, begin = safetensors_header(path)
        end = begin + max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as fault:
        raise LaunchError(f"{path} cannot be read ({fault}): {CURE}") from None
    size = path.stat().st_size
    if size != end:
        raise LaunchError(f"{path} has {size} bytes, and its header speaks of {end}: {CURE}")


def _require_tokenizer(folder: Path) -> None:
    if not any(chain.from_iterable(folder.glob(pattern) for pattern in _TOKENIZERS)):
        raise LaunchError(f"the model folder {folder} has no tokenizer (tokenizer.json): {CURE}, or name another with ANANKE_MODEL")
    path = folder / "tokenizer.json"
    if path.is_file():
        from tokenizers import Tokenizer

        try:
            Tokenizer.from_file(str(path))
        except Exception as fault:  # the library raises no class of its own
            raise LaunchError(f"{path} is no tokenizer ({fault}): {CURE}") from None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError) as fault:
        raise LaunchError(f"{path} cannot be read ({fault}): {CURE}") from None
    if not isinstance(content, dict):
        raise LaunchError(f"{path} is no JSON object: {CURE}")
    return content
