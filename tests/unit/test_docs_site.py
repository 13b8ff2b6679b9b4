"""The documentation's site builds without a warning, and its reference has every public name."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import ananke_client
from ananke_client import provenance
from ananke_server.launch import PROJECT
from ananke_server.settings import Settings

SITE = PROJECT / ".ananke" / "site"


@pytest.fixture(scope="module")
def site() -> Path:
    done = subprocess.run([PROJECT / "scripts" / "build_docs.sh"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return SITE


def names(page: Path) -> set[str]:
    return set(re.findall(r'id="(ananke_\w+(?:\.\w+)+)"', page.read_text()))


def test_every_document_is_a_page(site: Path) -> None:
    documents = {path.stem for path in (PROJECT / "docs").glob("*.md")}
    assert {path.parent.name for path in site.glob("docs/*/index.html")} == documents
    assert "Constrained code generation" in (site / "index.html").read_text()
    assert (site / "benchmarks" / "h200-engine.png").is_file()


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    found = set().union(*(names(page) for page in site.glob("docs/api/*/index.html")))
    public = {name for module in (ananke_client, provenance) for name in module.__all__}
    assert public - {name.rpartition(".")[2] for name in found} == set()


def test_every_setting_is_in_the_reference(site: Path) -> None:
    found = {name.rpartition(".")[2] for name in names(site / "docs" / "api" / "settings" / "index.html")}
    assert set(Settings.model_fields) - found == set()


def test_methods_say_what_they_raise(site: Path) -> None:
    page = (site / "docs" / "api" / "clients" / "index.html").read_text()
    assert "DeadlineExceededError" in page
    assert "seconds that it may take, retries included" in page
