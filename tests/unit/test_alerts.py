"""The alert rules and the example of a configuration, by Prometheus' own tool."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from documents import blocks

from ananke_server.launch import PROJECT

MONITORING = PROJECT / "monitoring"


needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")


def test_every_alert_is_seen_to_fire() -> None:
    alerts, cases = (yaml.safe_load((MONITORING / name).read_text()) for name in ("alerts.yaml", "alerts_test.yaml"))
    fired = {
        name
        for case in cases["tests"]
        for expression in case.get("promql_expr_test", ())
        for sample in expression.get("exp_samples", ())
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert fired == {rule["alert"] for group in alerts["groups"] for rule in group["rules"]}


@needs_promtool
@pytest.mark.parametrize("words", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yaml")])
def test_prometheus_own_tool_takes_rules_and_example(words: tuple[str, str, str]) -> None:
    promtool(*words)


@needs_promtool
def test_prometheus_takes_the_relabelling_of_the_document(tmp_path: Path) -> None:
    (block,) = [block.text for block in blocks("docs/MONITORING.md") if block.text.startswith("relabel_configs")]
    # Debian's Prometheus is built without the discovery of pods.
    job = {"job_name": "pods", "static_configs": [{"targets": ["localhost:8002"]}], **yaml.safe_load(block)}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [job]}))
    promtool("check", "config", str(tmp_path / "prometheus.yml"))


def promtool(*words: str) -> None:
    done = subprocess.run(["promtool", *words], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
