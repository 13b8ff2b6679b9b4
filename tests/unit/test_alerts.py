"""The alert rules and the example of a configuration, by Prometheus' own tool."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from ananke_server.launch import PROJECT

MONITORING = PROJECT / "monitoring"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
@pytest.mark.parametrize("words", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yaml")])
def test_prometheus_own_tool_takes_rules_and_example(words: tuple[str, str, str]) -> None:
    done = subprocess.run(["promtool", *words], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
