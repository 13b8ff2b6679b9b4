"""The Makefile's targets: each is told by help, and those that need no server do what they say."""

from __future__ import annotations

import re
import subprocess

import pytest

from ananke_server.launch import PROJECT

ASKED_FOR = {
    *("install", "setup", "deploy", "test", "run", "serve", "stop"),
    *("examples", "health", "logs", "bench", "clean", "info", "help"),
}
MAKEFILE = (PROJECT / "Makefile").read_text()


def make(*arguments: str) -> str:
    done = subprocess.run(["make", "--no-print-directory", *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_help_names_every_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert targets >= ASKED_FOR
    assert set(re.findall(r"^  make (\S+) ", make("help"), re.MULTILINE)) == targets
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == targets


def test_info_tells_packages_machine_and_model() -> None:
    told = dict(line.split(maxsplit=1) for line in make("info").splitlines())
    assert told.keys() == {"project", "python", "packages", "triton", "machine", "gpus", "model", "serving"}
    assert "llguidance 1." in told["packages"]
    assert told["triton"].endswith("tritonserver")


def test_logs_ends() -> None:
    """Without a terminal it does not follow."""
    make("logs", "LINES=1")


@pytest.mark.parametrize("arguments", ["--mode nothing", "--gpus x"])
def test_deploy_hands_its_arguments_on(arguments: str) -> None:
    done = subprocess.run(["make", "deploy", f"ARGS={arguments}"], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert arguments.split()[1] in done.stderr
