"""Triton's entry to the validate model; everything is in the library."""

from ananke_server.triton.validate import TritonPythonModel

__all__ = ["TritonPythonModel"]
