"""docs/SECURITY.md: each promise names tests, and they exist."""

from __future__ import annotations

import ast
import re

from ananke_server.launch import PROJECT

TEXT = (PROJECT / "docs" / "SECURITY.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.partition("## Promises")[2].splitlines() if line[:1] == "|"]


def exists(test: str) -> bool:
    """Whether a test, as pytest names it, is in the tree; a module alone counts if it has any."""
    file, *names = test.split("::")
    path = PROJECT / file
    if not path.is_file():
        return False
    scope: list[ast.stmt] = ast.parse(path.read_text()).body
    if not names:
        return any(isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.lower().startswith("test") for node in scope)
    for name in names:
        found = [node for node in scope if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name]
        if not found:
            return False
        scope = found[0].body
    return True


def test_each_promise_names_tests_that_exist() -> None:
    promises = ROWS[2:]
    assert len(promises) > 20
    for promise, by, tests in promises:
        named = re.findall(r"`(tests/[^`]+)`", tests)
        assert promise
        assert by
        assert named, f"no test holds: {promise}"
        assert [test for test in named if not exists(test)] == []


def test_a_test_that_does_not_exist_would_be_seen() -> None:
    assert exists("tests/unit/test_security_document.py::test_a_test_that_does_not_exist_would_be_seen")
    assert exists("tests/unit/test_protection.py::TestTls::test_addresses")
    for wrong in ("tests/unit/test_nothing.py", "tests/unit/test_protection.py::test_addresses", "tests/documents.py"):
        assert not exists(wrong)
