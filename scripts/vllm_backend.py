"""Triton's own vLLM backend as a model repository, made from the repository ``triton-inference-server/vllm_backend``.

It is a model of the Python backend like ours. What vLLM 0.32 and Triton's stub of 2.51 ask for beside its code is put
into ``compatible.py``, which ``model.py`` of the copy imports first; the code itself stays as it is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

MODEL: Final = "vllm_model"
_COMPATIBLE = '''\
"""What the backend takes for granted: UTF-8 as the default encoding, and names that vLLM has moved or dropped since."""

import locale
import sys
import types

locale.setlocale(locale.LC_ALL, "C.UTF-8")

import vllm.inputs
import vllm.v1.metrics.loggers

if "vllm.inputs.data" not in sys.modules:
    data = types.ModuleType("vllm.inputs.data")
    data.TokensPrompt = vllm.inputs.TokensPrompt
    sys.modules["vllm.inputs.data"] = data
if not hasattr(vllm.v1.metrics.loggers, "build_1_2_5_buckets"):
    vllm.v1.metrics.loggers.build_1_2_5_buckets = None  # of metrics, which are off
'''
_INPUTS: Final = {
    "text_input": "STRING",
    "stream": "BOOL",
    "sampling_parameters": "STRING",
    "exclude_input_in_output": "BOOL",
    "return_finish_reason": "BOOL",
    "return_cumulative_logprob": "BOOL",
    "return_logprobs": "BOOL",
    "return_num_input_tokens": "BOOL",
    "return_num_output_tokens": "BOOL",
    "image": "STRING",
    "embedding_request": "STRING",
}
_OUTPUTS: Final = {
    "text_output": ("STRING", -1),
    "finish_reason": ("STRING", -1),
    "cumulative_logprob": ("FP32", -1),
    "logprobs": ("STRING", -1),
    "num_input_tokens": ("UINT32", 1),
    "num_output_tokens": ("UINT32", -1),
}


def make_repository(folder: Path, source: Path, engine: Mapping[str, Any]) -> Path:
    """A repository in the folder whose one model, ``vllm_model``, runs vLLM with these engine arguments.

    Raises:
        FileNotFoundError: the source has no ``model.py`` or ``utils``.
    """
    source = source / "src" if (source / "src" / "model.py").is_file() else source
    version = folder / MODEL / "1"
    version.mkdir(parents=True)
    shutil.copytree(source / "utils", version / "utils")
    code = (source / "model.py").read_text(encoding="utf-8")
    (version / "model.py").write_text("import compatible\n\n" + code, encoding="utf-8")
    (version / "compatible.py").write_text(_COMPATIBLE, encoding="utf-8")
    (version / "model.json").write_text(json.dumps(engine), encoding="utf-8")
    (folder / MODEL / "config.pbtxt").write_text(_configuration(), encoding="utf-8")
    return folder


def _configuration() -> str:
    """What the backend completes by itself where Triton asks it to, which our launcher does not."""
    inputs = [f'{{ name: "{name}" data_type: TYPE_{kind} dims: [ 1 ] optional: true }}' for name, kind in _INPUTS.items()]
    outputs = [f'{{ name: "{name}" data_type: TYPE_{kind} dims: [ {size} ] }}' for name, (kind, size) in _OUTPUTS.items()]
    return f"""name: "{MODEL}"
backend: "python"
max_batch_size: 0
model_transaction_policy {{ decoupled: true }}
input [ {", ".join(inputs)} ]
output [ {", ".join(outputs)} ]
instance_group [ {{ count: 1 kind: KIND_MODEL }} ]
"""
