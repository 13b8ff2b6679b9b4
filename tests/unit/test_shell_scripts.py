"""The shell scripts, by shellcheck."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ananke_server.launch import PROJECT


def test_shellcheck_has_nothing_to_say() -> None:
    scripts = [*sorted(PROJECT.glob("scripts/*.sh")), *sorted(PROJECT.glob("examples/**/*.sh")), PROJECT / ".ci" / "run"]
    assert len(scripts) > 10
    answer = subprocess.run([Path(sys.executable).parent / "shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (0, "")
