"""Write docs/FILES.md: what each file is, by the first sentence of its docstring or opening comment."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
TARGET = PROJECT / "docs" / "FILES.md"
HEAD = """# Files

One line for each file, or for a folder whose files need none of their own. Made by `scripts/list_files.py` from docstrings.
"""
FOLDERS = {
    "docs/api": "Pages of the API reference, filled from docstrings by `make docs`.",
    "benchmarks": "Results, each with the command that made it: see its README.",
    "deploy/helm/ananke": "The Helm chart: its values say what each does.",
    "tests/faults": "Faults on a real server, and what they share: see docs/FAULTS.md.",
    "tests/gpu": "Tests that need a GPU; skipped without one.",
    "tests/serving": "Tests against a real server: Triton, vLLM on CPU and the small model, started once a run.",
    "tests/unit": "Tests without a server, and what they share.",
}
"""Folders that are one line."""
FILES = {
    ".ci/run": "What continuous integration runs: the README's test command.",
    ".gitignore": "What set-up and tools make within the tree.",
    "Makefile": "Every command: `make help` lists them.",
    "README.md": "What this is, how it is set up, served and called, and its limits today.",
    "deploy/image-test.log": "The last run of `make image-test`.",
    "config.yaml": "The configuration: every key with its meaning and its default.",
    "docs/ARCHITECTURE.md": "How the parts fit together, and why.",
    "docs/CONFIGURATION.md": "Where settings come from, what is checked before a start, and every setting.",
    "docs/DEPLOYMENT.md": "From a machine with a GPU to a cluster: deploy.sh, the Helm chart, KServe, and what they promise.",
    "docs/CONSTRAINTS.md": "Every kind of constraint, what is enforced, verified and refused.",
    "docs/FAULTS.md": "What was done to a real server, and what its clients saw: each with its test.",
    "docs/FILES.md": "This list.",
    "docs/MONITORING.md": "Health and status, every metric, the dashboard and alerts, logs and traces.",
    "docs/QUICKSTART.md": "From a clone to a first answer in five minutes.",
    "docs/PROVENANCE.md": "The statement and its envelope, keys, verification and replay.",
    "examples/http/README.md": "Calling the server from other languages over plain HTTP.",
    "model_repository/generate/1/.gitkeep": "Keeps the version's folder, without which Triton refuses an ensemble.",
    "model_repository/generate/config.pbtxt": "The ensemble that clients call: validate, then guided_relay.",
    "model_repository/generate_once/config.pbtxt": "The same for plain inference: one response a request.",
    "model_repository/guided_relay/config.pbtxt": "guided_vllm for streams, from processes of their own.",
    "model_repository/guided_vllm/config.pbtxt": "The model that generates within a grammar.",
    "model_repository/validate/config.pbtxt": "The model that turns a constraint into a grammar and a report.",
    "monitoring/grafana/ananke.json": "A Grafana dashboard of one or several servers, to be imported.",
    "pyproject.toml": "The distribution, its extras, and the settings of its tools.",
    "requirements/cpu.txt": "Lock for machines without a GPU.",
    "requirements/docs.txt": "Lock for the documentation's site.",
    "requirements/gpu.txt": "Lock for machines with a GPU.",
    "requirements/build.txt": "Lock for what builds this project's wheel in a container image.",
    "requirements/image-cpu.txt": "Lock for a container image without a GPU.",
    "requirements/image.txt": "Lock for a container image.",
}
"""Files that cannot say it themselves."""
_MARKERS = ("py.typed",)


def main() -> int:
    TARGET.write_text(listing())
    return 0


def listing() -> str:
    """The text of docs/FILES.md.

    Raises:
        ValueError: a file says nothing of itself.
        subprocess.CalledProcessError: this is no checkout of git.
    """
    shown: dict[str, list[str]] = {}
    paths = {_shown(path) for path in tracked() if not path.endswith(_MARKERS)}
    for path in sorted(paths, key=lambda path: path.rpartition("/")):
        folder, _, name = path.rpartition("/")
        shown.setdefault(folder, []).append(f"| `{name}{'/' if path in FOLDERS else ''}` | {_description(path)} |")
    sections = (f"\n## {folder or 'At the top'}\n\n| file | is |\n|---|---|\n" + "\n".join(lines) + "\n" for folder, lines in shown.items())
    return HEAD + "".join(sections)


def tracked() -> list[str]:
    """Every file of the checkout, and what git does not ignore beside it, by its path from the top.

    Raises:
        subprocess.CalledProcessError: this is no checkout of git.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout.split("\0")
    return [path for path in files if path and (PROJECT / path).is_file()]


def _shown(path: str) -> str:
    return next((folder for folder in FOLDERS if path.startswith(f"{folder}/")), path)


def _description(path: str) -> str:
    if said := FOLDERS.get(path) or FILES.get(path):
        return said
    text = (PROJECT / path).read_text(errors="replace")
    if path.endswith(".py"):
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        said = " ".join(line.lstrip("#/ ") for line in _opening_comment(text))
    sentence = re.split(r"(?<=[.])\s|: scripts/|\n\n", said, maxsplit=1)[0]
    if not sentence:
        raise ValueError(f"{path} has no docstring and no opening comment: write one, or name it in scripts/list_files.py")
    return " ".join(sentence.split()).replace("``", "`").replace("|", "\\|").rstrip(":.") + "."


def _opening_comment(text: str) -> list[str]:
    lines = text.splitlines()
    lines = lines[1:] if lines and lines[0].startswith("#!") else lines
    end = next((index for index, line in enumerate(lines) if not line.startswith(("#", "//"))), len(lines))
    return lines[:end]


if __name__ == "__main__":
    sys.exit(main())
