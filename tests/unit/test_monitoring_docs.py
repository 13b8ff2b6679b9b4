"""docs/MONITORING.md lists every metric, with the type, the labels and the meaning that it is exported with."""

from __future__ import annotations

import re
from pathlib import Path

import backend_support  # noqa: F401

from ananke_server.engine.life import EngineState
from ananke_server.triton.guided_metrics import GUIDED_FAMILIES
from ananke_server.triton.validate_metrics import VALIDATE_FAMILIES

TEXT = (Path(__file__).parents[2] / "docs" / "MONITORING.md").read_text()


def test_the_tables_are_what_is_exported() -> None:
    rows = re.findall(r"^\| `(ananke_\w+)` \| (\w+) \| (.+?) \| (.+?) \| (.+?) \|$", TEXT, re.MULTILINE)
    shown = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, _, meaning in rows}
    families = GUIDED_FAMILIES | VALIDATE_FAMILIES
    assert shown == {name: (family.kind, family.labels, family.description) for name, family in families.items()}
    assert len(rows) == len(shown)


def test_every_state_is_explained() -> None:
    assert not [state for state in EngineState if f"`{state}`" not in TEXT]
