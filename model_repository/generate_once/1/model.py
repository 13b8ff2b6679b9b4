"""Triton's entry to the generate_once model; everything is in the library."""

from ananke_server.triton.relayed import TritonPythonModel

__all__ = ["TritonPythonModel"]
