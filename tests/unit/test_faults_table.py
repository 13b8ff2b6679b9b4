"""docs/FAULTS.md against the tests: each that it names exists, and each of tests/faults is in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from ananke_server.engine.life import DRAIN_SECONDS
from ananke_server.launch import PROJECT

TEXT = (PROJECT / "docs" / "FAULTS.md").read_text()
NAMED = set(re.findall(r"^\|.*`(tests/[\w/]+\.py::[\w:]+)` \|$", TEXT, re.MULTILINE))
HELD_APART = {
    "tests/faults/test_clocks.py::test_every_way_to_read_it_is_found",
    "tests/faults/test_clocks.py::test_a_monotonic_clock_is_none",
}
"""Tests of a test's own means: no faults."""


def defined_in(path: Path) -> set[str]:
    """The tests of a module, as pytest names them."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        members = [(f"{node.name}::", member) for member in node.body] if isinstance(node, ast.ClassDef) else [("", node)]
        found |= {
            f"{path.relative_to(PROJECT)}::{prefix}{member.name}"
            for prefix, member in members
            if isinstance(member, ast.FunctionDef) and member.name.startswith("test_")
        }
    return found


def test_every_test_of_the_table_exists() -> None:
    assert len(NAMED) > 15
    for name in NAMED:
        path = PROJECT / name.partition("::")[0]
        assert path.is_file(), name
        assert name in defined_in(path)


def test_every_test_of_a_fault_is_in_the_table() -> None:
    ours = set().union(*(defined_in(path) for path in (PROJECT / "tests" / "faults").glob("test_*.py")))
    assert ours - HELD_APART <= NAMED
    assert ours >= HELD_APART


def test_how_long_those_go_on_whom_a_fault_leaves_alone_is_told() -> None:
    assert f"what is not goes on for {DRAIN_SECONDS:g} s" in TEXT
