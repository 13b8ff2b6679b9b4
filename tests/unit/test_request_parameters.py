"""The README's table of request parameters has every one that the server takes."""

from __future__ import annotations

import re

import backend_support  # noqa: F401  (before what imports Triton's module)

from ananke_client.connection import API_KEY_HEADER
from ananke_server.launch import PROJECT
from ananke_server.triton.codec import PARAMETERS


def test_every_request_parameter_has_its_row() -> None:
    table = (PROJECT / "README.md").read_text().partition("| parameter | type | meaning |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines() if row.startswith("| `") for name in re.findall(r"`([\w-]+)`", row.split("|")[1])}
    assert named == {*PARAMETERS, API_KEY_HEADER}
