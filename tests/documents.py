"""The documents' blocks of code: which there are, and the few that are not run here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ananke_server.launch import PROJECT

DOCUMENTS = [
    "README.md",
    *sorted(str(path.relative_to(PROJECT)) for path in (PROJECT / "docs").rglob("*.md")),
    "benchmarks/README.md",
    "examples/http/README.md",
]
QUICKSTART = "docs/QUICKSTART.md"
SHOWN = "text"
"""The language of pictures and of what a program printed: nothing to run."""
RUN = ("sh", "python", "json", "console")
"""``json`` is written into the file that the line before names; ``console`` has commands after ``$``, and what they print."""

NOT_RUN = {
    ("examples/http/README.md", "use serde_json::{json, Value};"): "Rust: there is no Rust compiler here; the document says so",
    ("docs/DEPLOYMENT.md", "docker build"): "registries, a cluster; make image-test and tests/unit/test_chart.py do without",
    ("docs/DEPLOYMENT.md", "helm -n serving install"): "it needs a cluster; tests/unit/test_chart.py renders what it says",
    ("docs/DEPLOYMENT.md", "kubectl"): "it needs a cluster; tests/unit/test_chart.py holds the files against KServe's types",
    ("README.md", "make key"): "a server with a key of its own: tests/serving/conftest.py runs make_key.py and starts the session's so",
    ("README.md", "$ ANANKE_MAX_PENDING=many make serve"): "set-up's lines are left out; tests/unit/test_preflight.py has each fault",
    ("docs/MONITORING.md", "relabel_configs"): "a part of Prometheus' configuration: tests/unit/test_alerts.py has promtool check it",
    ("docs/SECURITY.md", "make api-key"): "a server with keys of its own: tests/serving/test_security.py",
    ("docs/SECURITY.md", "PROXY_SITE"): "a proxy with ports and certificates of its own: tests/serving/test_proxy.py",
    ("docs/SECURITY.md", "ANANKE_TLS_CERTIFICATE_FILE"): "a server with certificates of its own: tests/serving/test_security.py",
    (QUICKSTART, "make run"): "a second server: `make test` has set up, and the demo's other half runs against the session's server",
}
"""Blocks that are not run, by their document and how they begin, each with the reason."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"^    (\S.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block, and the last line of text before it."""

    document: str
    line: int
    language: str
    text: str
    before: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def reason_not_to_run(self) -> str | None:
        return next((why for (document, begin), why in NOT_RUN.items() if document == self.document and self.text.startswith(begin)), None)

    @property
    def runs(self) -> bool:
        """Whether it is run by the tests."""
        return self.language in RUN and self.reason_not_to_run is None

    @property
    def file(self) -> str | None:
        """The file that it is to be written to."""
        named = re.search(r"`([\w.]+)`:$", self.before)
        return named[1] if named else None


def blocks(document: str) -> list[Block]:
    """The fenced blocks of a document, in order."""
    text = (PROJECT / document).read_text()
    found = []
    for fence in _FENCE.finditer(text):
        before = text[: fence.start()].rstrip().rpartition("\n")[2]
        found.append(Block(document, text.count("\n", 0, fence.start()) + 1, fence[1], fence[2], before))
    return found


def printed_by(block: Block, following: Block | None) -> str | None:
    """What a block is said to print: the text right behind it."""
    adjoins = following is not None and following.language == SHOWN and following.before == "```"
    return following.text if adjoins and following else None


def indented_commands(document: str) -> Iterator[str]:
    """Lines of indented blocks, which give commands in outline."""
    text = _FENCE.sub("", (PROJECT / document).read_text())
    for line in _INDENTED.finditer(text):
        if re.match(r"make |ananke |\.venv/|scripts/|curl ", line[1]):
            yield line[1]
