"""Version: that of the installed package."""

from importlib.metadata import version

__version__ = version("ananke-triton")
"""The version that pyproject.toml has."""
