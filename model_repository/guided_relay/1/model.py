"""Triton's entry to the guided_relay model; everything is in the library."""

from ananke_server.triton.relayed import TritonPythonModel

__all__ = ["TritonPythonModel"]
