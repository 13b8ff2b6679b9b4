"""Triton's entry to the generate_once model; everything is in the library."""

from ananke_server.triton.generate_once import TritonPythonModel

__all__ = ["TritonPythonModel"]
