"""Extras: how to install what a command or an argument needs beside the client."""

from __future__ import annotations


def install_command(*extras: str) -> str:
    """What installs these extras. The package is on no index, so it says where to be: a name there may be anybody's."""
    return f"pip install '.[{','.join(extras)}]' in the project's folder"
