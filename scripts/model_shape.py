"""A model's folder of a configuration and a tokenizer: without weights, for vLLM's ``load_format="dummy"``, or with random ones.

    python scripts/model_shape.py TOKENIZER_DIR [--tiny] [--weights]      (prints the folder)
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, Final

from ananke_server.launch import DEFAULT_MODEL, PROJECT

SHAPE_7B: Final[dict[str, Any]] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "vocab_size": 152064,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
TINY: Final = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}

_WHOLE: Final = ("model.safetensors", "model.safetensors.index.json")
"""Of the files with weights the last, one of which is there."""
CAPTURED: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Batches that CUDA graphs are captured for."""


def model_of(tokenizer: str | None, *, tiny: bool) -> str:
    """A benchmark's model: of a tokenizer's folder the 7B shape or a tiny one, without any the small real model."""
    return str(DEFAULT_MODEL) if tokenizer is None else write_shape(Path(tokenizer), tiny=tiny)


def write_shape(tokenizer: Path, *, tiny: bool = False) -> str:
    """The folder of a 7B shape (Qwen2.5), or of a tiny one, with this tokenizer.

    It is the same in each run, since vLLM finds what it has compiled for a model by the model's path.
    """
    folder = PROJECT / ".ananke" / ("shape-tiny" if tiny else "shape-7b")
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(SHAPE_7B | TINY if tiny else SHAPE_7B).encode()
    files = {name: (tokenizer / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")} | {"config.json": config}
    for name, content in files.items():
        # Another program may be reading it.
        if not (path := folder / name).is_file() or path.read_bytes() != content:
            path.write_bytes(content)
    return str(folder)


def write_weights(folder: str) -> None:
    """Put random weights beside a shape's configuration, where there are none yet: 15 GB for 7B, made on the GPU where there is one.

    Some of the GPU's memory stays taken as long as this process lives.
    """
    if any((Path(folder) / name).exists() for name in _WHOLE):
        return
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with tempfile.TemporaryDirectory(dir=folder) as partial, torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16).save_pretrained(partial)
        for file in sorted(Path(partial).glob("*safetensors*"), key=lambda file: file.name in _WHOLE):
            file.rename(Path(folder) / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path, help="a folder with tokenizer.json and tokenizer_config.json of up to 152,064 tokens")
    parser.add_argument("--tiny", action="store_true", help="two small layers")
    parser.add_argument("--weights", action="store_true", help="with random weights")
    arguments = parser.parse_args()
    folder = write_shape(arguments.tokenizer, tiny=arguments.tiny)
    if arguments.weights:
        write_weights(folder)
    print(folder)


if __name__ == "__main__":
    main()
