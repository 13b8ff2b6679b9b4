"""Triton's entry to the guided_vllm model; everything is in the library."""

from ananke_server.triton.guided_vllm import TritonPythonModel

__all__ = ["TritonPythonModel"]
