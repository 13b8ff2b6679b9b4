"""No deadline, lease or wait goes by the wall clock: what reads it in the client's and the server's code only writes it down."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from ananke_server.launch import PROJECT

WALL = {"time.time", "time.time_ns", "time.ctime"}
WALL |= {"datetime.now", "datetime.utcnow", "datetime.today", "datetime.datetime.now", "date.today"}
WRITTEN_DOWN = {
    ("server/ananke_server/provenance/surroundings.py", "datetime.now"): "the time in a statement of provenance",
    ("server/ananke_server/tracing/spans.py", "time.time_ns"): "what a span's moments, which are monotonic, are told as",
}
"""Where the wall clock is read, and what for."""
FOLDERS = ("client", "server", "model_repository")


def readings(tree: ast.AST) -> Iterator[str]:
    """The wall clock's functions that a module calls or hands on, by whatever name it imported them."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}".removeprefix("datetime.") for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname and alias.name in ("time", "datetime")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            head, dot, rest = ast.unparse(node).partition(".")
            if (name := names.get(head, head) + dot + rest) in WALL:
                yield name


def modules() -> Iterator[tuple[str, ast.AST]]:
    for folder in FOLDERS:
        for path in sorted((PROJECT / folder).rglob("*.py")):
            yield str(path.relative_to(PROJECT)), ast.parse(path.read_text(encoding="utf-8"))


def test_the_wall_clock_is_read_where_it_is_written_down_and_nowhere_else() -> None:
    found = {(path, name) for path, tree in modules() for name in readings(tree)}
    assert found == set(WRITTEN_DOWN)


@pytest.mark.parametrize(
    "source",
    [
        "import time\nend = time.time() + 5",
        "from time import time as now\nend = now() + 5",
        "import time as clock\nfield(default_factory=clock.time)",
        "from datetime import datetime\nend = datetime.now() + wait",
        "import datetime\nend = datetime.datetime.now()",
    ],
)
def test_every_way_to_read_it_is_found(source: str) -> None:
    assert len(list(readings(ast.parse(source)))) == 1


def test_a_monotonic_clock_is_none() -> None:
    assert list(readings(ast.parse("import time\nend = time.monotonic() + time.perf_counter()"))) == []
