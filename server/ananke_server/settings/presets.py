"""Presets: values that belong together, for a purpose or for a GPU. Any of them can be set otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Presets = Mapping[str, Mapping[str, Any]]

PRESETS: Presets = {
    # Starts sooner, says more, and shows a full queue early.
    "development": {"enforce_eager": True, "log_level": "DEBUG", "max_num_seqs": 32, "concurrency": 10, "max_pending": 64},
    # Logs for machines, a record of every answer that outlives a power cut, and a GPU that is free while nobody calls.
    "production": {
        "log_format": "json",
        "request_timeout": 300.0,
        "idle_timeout": 60.0,
        "provenance_log": ".ananke/log/provenance.jsonl",
        "provenance_log_fsync": "always",
    },
}
"""What `preset` may be."""

# By arithmetic, not measured on these cards: a 7B model with grouped-query attention has 15 GiB of 16-bit weights and 56 KiB of KV
# cache a token (28 layers, 4 heads of 128). What is left holds about 340,000 tokens on 40 GB (41 requests of 8,192) and
# 1,000,000 on 80 GB (63 of 16,384). Requests seldom fill their context, so two to four times as many share a step.
GPU_PROFILES: Presets = {
    "a100-40gb": {"gpu_memory_utilization": 0.9, "max_num_seqs": 128, "max_model_len": 8192},
    "a100-80gb": {"gpu_memory_utilization": 0.92, "max_num_seqs": 256, "max_model_len": 16384},
}
"""What `gpu_profile` may be."""
